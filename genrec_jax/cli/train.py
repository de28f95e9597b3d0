"""Pretrain, finetune and test a model.

The same command again resumes a run that was stopped. The run's directory holds its config,
checkpoints, metrics, rankings and report.html. Every key of the config is a flag:
--config.finetune.epochs=5; genrec_jax/models/run_config.py says what the keys of all model families
mean, and the config.py of each family there what its own keys mean. A file of configs/ that the
working folder does not have is the one shipped with genrec_jax.

On several hosts, run the same command on each, with --workdir on a shared disk. Tell the processes
of each other by --coordinator=HOST:PORT, --processes=N and --process=I, or by --distributed.
"""

from types import SimpleNamespace

from genrec_jax.cli.cluster import PROCESS_FLAGS, join_others
from genrec_jax.cli.command import Command
from genrec_jax.cli.runs import WORKDIR, run_folder
from genrec_jax.core.endings import RESUMABLE
from genrec_jax.runs.config_source import NEW_RUN


def run(given: SimpleNamespace) -> None:
    from genrec_jax.cli.jax_setup import set_up_jax
    from genrec_jax.reporting.run_report import report_run
    from genrec_jax.training.train import train

    set_up_jax()
    join_others(given)
    train(given.config, run_folder(given), report_run)


main = Command(
    "train",
    "--config=configs/NAME.py[:variant] [--workdir=DIR] [--config.KEY=VALUE …]",
    __doc__ or "",
    run,
    (WORKDIR, *PROCESS_FLAGS),
    NEW_RUN,
    interrupted=RESUMABLE,
)
