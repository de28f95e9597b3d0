"""Rank a split with a run's checkpoint and print its metrics.

The metrics of the baselines on the same users are printed next to them. --config.evaluate.KEY=VALUE
changes how the users are ranked; the run itself is not changed. All other keys of the config must
have the run's values, except config.model_parallel and config.data.dir.
"""

import logging
from types import SimpleNamespace

from genrec_jax.cli.cluster import join_processes
from genrec_jax.cli.command import Command
from genrec_jax.cli.runs import RANKING_FLAGS, stored_run
from genrec_jax.core.endings import RESUMABLE
from genrec_jax.core.flags import Flag
from genrec_jax.runs.config_source import NEW_RUN

log = logging.getLogger(__name__)


def run(arguments: SimpleNamespace) -> None:
    """Run the command."""
    from genrec_jax.cli.jax_setup import set_up_jax
    from genrec_jax.evaluation.evaluate import evaluate
    from genrec_jax.reporting.tables import result_table

    set_up_jax()
    join_processes(arguments)
    result = evaluate(arguments.config, stored_run(arguments), arguments.split, arguments.step)
    log.info("\n%s", result_table(result))


main = Command(
    "evaluate",
    "--workdir=RUN [--split=validation] [--step=N] [--config.evaluate.KEY=VALUE …]",
    __doc__ or "",
    run,
    (
        *RANKING_FLAGS,
        Flag("split", "The split whose users are ranked.", ("test", "validation"), "test"),
    ),
    NEW_RUN,
    interrupted=RESUMABLE,
)
