"""Test whether the item numbering of a dataset leaks test items. No model is trained.

Heuristics that know nothing but the item numbers rank the test items. Their advantage over chance
is what a model that reads item numbers as text could learn from the numbering alone. The dataset is
that of --config, or of the run in --workdir.
"""

import logging
from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import Flag
from genrec_jax.runs.config_source import NEW_RUN

log = logging.getLogger(__name__)


def run(arguments: SimpleNamespace) -> None:
    """Run the command."""
    if arguments.workdir is not None and arguments.config_file is not None:
        raise InputError("--workdir: found together with --config, expected only one of them")
    from genrec_jax.cli.jax_setup import set_up_jax
    from genrec_jax.evaluation.audit import audit
    from genrec_jax.reporting.tables import audit_text

    set_up_jax()
    log.info("%s", audit_text(audit(arguments.config)))


main = Command(
    "audit",
    "--config=configs/NAME.py[:variant]|--workdir=RUN [--config.KEY=VALUE …]",
    __doc__ or "",
    run,
    (
        Flag(
            "workdir",
            "The directory of a run whose config to use instead of --config.",
            Path,
            expected="RUN",
        ),
    ),
    NEW_RUN,
    interrupted="interrupted; an audit writes no files",
)
