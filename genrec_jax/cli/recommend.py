"""Write top-k recommendations for all users of a run's dataset, or for a file of histories.

A file of histories holds lines of `user item item …`, or JSON lines as
{"user": "A1", "items": ["B00", …]}; the most recent item is last. The output is Parquet, or JSON
lines where its name ends in .jsonl.
"""

from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.cluster import join_others
from genrec_jax.cli.command import Command
from genrec_jax.cli.runs import RANKING_FLAGS, stored_run
from genrec_jax.core.endings import RESUMABLE
from genrec_jax.core.flags import Flag
from genrec_jax.runs.config_source import RECOMMENDED_RUN


def run(given: SimpleNamespace) -> None:
    from genrec_jax.cli.jax_setup import set_up_jax
    from genrec_jax.serving.bulk import recommend

    set_up_jax()
    join_others(given)
    recommend(given.config, stored_run(given), given.step, given.histories, given.output)


main = Command(
    "recommend",
    "--workdir=RUN [--histories=FILE] [--output=FILE] [--step=N] [--config.evaluate.KEY=VALUE …]",
    __doc__ or "",
    run,
    (
        *RANKING_FLAGS,
        Flag("histories", "The histories; default all of the dataset.", Path, expected="FILE"),
        Flag(
            "output",
            "The file to write; default predictions/recommendations.parquet of the run.",
            Path,
            expected="FILE",
        ),
    ),
    RECOMMENDED_RUN,
    interrupted=RESUMABLE,
)
