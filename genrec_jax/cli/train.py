"""Pretrain, finetune and test a model.

Rerunning the command resumes a run that was stopped. The run's directory contains its config,
checkpoints, metrics, rankings and report.html.

Every key of the config is a flag, such as --config.finetune.epochs=5. The keys of all model
families are described in genrec_jax/models/run_config.py, those of one family in
config.py of genrec_jax/models/FAMILY. A file of configs/ that is not in the working folder is taken
from the installed package.

To train on several hosts, run the same command on each of them, with --workdir on a shared disk.
Connect the processes with --coordinator=HOST:PORT, --processes=N and --process=I, or with
--distributed.
"""

from types import SimpleNamespace

from genrec_jax.cli.cluster import PROCESS_FLAGS, join_processes
from genrec_jax.cli.command import Command
from genrec_jax.cli.runs import WORKDIR, run_folder
from genrec_jax.core.endings import RESUMABLE
from genrec_jax.runs.config_source import NEW_RUN


def run(arguments: SimpleNamespace) -> None:
    """Run the command."""
    from genrec_jax.cli.jax_setup import set_up_jax
    from genrec_jax.reporting.run_report import report_run
    from genrec_jax.training.train import train

    set_up_jax()
    join_processes(arguments)
    train(arguments.config, run_folder(arguments), report_run)


main = Command(
    "train",
    "--config=configs/NAME.py[:variant] [--workdir=DIR] [--config.KEY=VALUE …]",
    __doc__ or "",
    run,
    (WORKDIR, *PROCESS_FLAGS),
    NEW_RUN,
    interrupted=RESUMABLE,
)
