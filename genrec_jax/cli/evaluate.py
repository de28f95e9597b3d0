"""Rank a split with a run's checkpoint and print its metrics.

The baselines are printed beside it, on the same users. --config.evaluate.KEY=VALUE changes how the
run is ranked; the run itself is not changed.
"""

import logging
from types import SimpleNamespace

from genrec_jax.cli.cluster import join_others
from genrec_jax.cli.command import Command
from genrec_jax.cli.runs import RANKING_FLAGS, stored_run
from genrec_jax.core.endings import RESUMABLE
from genrec_jax.core.flags import Flag
from genrec_jax.runs.config_source import NEW_RUN

log = logging.getLogger(__name__)


def run(given: SimpleNamespace) -> None:
    from genrec_jax.cli.jax_setup import set_up_jax
    from genrec_jax.evaluation.evaluate import evaluate
    from genrec_jax.reporting.tables import result_table

    set_up_jax()
    join_others(given)
    result = evaluate(given.config, stored_run(given), given.split, given.step)
    log.info("\n%s", result_table(result))


main = Command(
    "evaluate",
    "--workdir=RUN [--split=validation] [--step=N] [--config.evaluate.KEY=VALUE …]",
    __doc__ or "",
    run,
    (
        *RANKING_FLAGS,
        Flag("split", "The split to rank.", ("test", "validation"), "test"),
    ),
    NEW_RUN,
    interrupted=RESUMABLE,
)
