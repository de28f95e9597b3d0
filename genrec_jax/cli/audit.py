"""Test whether the item numbering of a dataset leaks the test items; nothing is trained.

Rules that know nothing but the numbers are ranked on the test items. What they hit above chance is
what a model that reads the numbers as text can read off them.
"""

import logging
from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import Flag
from genrec_jax.runs.config_source import NEW_RUN

log = logging.getLogger(__name__)


def run(given: SimpleNamespace) -> None:
    if given.workdir is not None and given.config_file is not None:
        raise InputError("--workdir: found --config beside it, expected one of them")
    from genrec_jax.cli.jax_setup import set_up_jax
    from genrec_jax.evaluation.audit import audit
    from genrec_jax.reporting.tables import audit_text

    set_up_jax()
    log.info("%s", audit_text(audit(given.config)))


main = Command(
    "audit",
    "--config=configs/NAME.py[:variant]|--workdir=RUN [--config.KEY=VALUE …]",
    __doc__ or "",
    run,
    (Flag("workdir", "A run whose config is taken without --config.", Path, expected="RUN"),),
    NEW_RUN,
    interrupted="interrupted; an audit writes nothing",
)
