"""Write top-k recommendations for all users of a run's dataset, or for a file of histories.

A line of the file of histories is `user item item …`, or JSON such as
{"user": "A1", "items": ["B00", …]}, with the most recent item last. The output is a Parquet file,
or JSON lines if its name ends in .jsonl.

--config.evaluate.KEY=VALUE changes how the items are ranked; the run itself is not changed. All
other keys of the config must have the run's values, except config.model_parallel and
config.data.dir.
"""

from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.cluster import join_processes
from genrec_jax.cli.command import Command
from genrec_jax.cli.runs import RANKING_FLAGS, stored_run
from genrec_jax.core.endings import RESUMABLE
from genrec_jax.core.flags import Flag
from genrec_jax.runs.config_source import RECOMMENDED_RUN


def run(arguments: SimpleNamespace) -> None:
    """Run the command."""
    from genrec_jax.cli.jax_setup import set_up_jax
    from genrec_jax.serving.bulk import recommend

    set_up_jax()
    join_processes(arguments)
    recommend(
        arguments.config,
        stored_run(arguments),
        arguments.step,
        arguments.histories,
        arguments.output,
    )


main = Command(
    "recommend",
    "--workdir=RUN [--histories=FILE] [--output=FILE] [--step=N] [--config.evaluate.KEY=VALUE …]",
    __doc__ or "",
    run,
    (
        *RANKING_FLAGS,
        Flag(
            "histories",
            "The file of histories. Default: the histories of all users of the dataset.",
            Path,
            expected="FILE",
        ),
        Flag(
            "output",
            "The file to write. Default: predictions/recommendations.parquet in the run's "
            "directory.",
            Path,
            expected="FILE",
        ),
    ),
    RECOMMENDED_RUN,
    interrupted=RESUMABLE,
)
