"""Flags and helpers shared by the commands that work on one run."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from genrec_jax.cli.cluster import PROCESS_FLAGS
from genrec_jax.core.flags import Flag

if TYPE_CHECKING:  # imports JAX
    from genrec_jax.runs.run_folder import RunFolder

WORKDIR = Flag(
    "workdir",
    "The run's directory. Default: runs/NAME[_variant] for --config=configs/NAME.py[:variant].",
    Path,
    expected="DIR",
)
REQUIRED_WORKDIR = Flag("workdir", "The run's directory.", Path, expected="RUN", required=True)
STEP = Flag(
    "step",
    "The training step of the checkpoint to use. Default: the checkpoint that is best on "
    "validation.",
    int,
)
RANKING_FLAGS = (WORKDIR, STEP, *PROCESS_FLAGS)


def run_folder(arguments: SimpleNamespace) -> "RunFolder":
    """Return the run directory given by --workdir, or the default directory of the config file.

    The default for configs/beauty.py:small is runs/beauty_small.
    """
    from genrec_jax.runs.run_folder import RunFolder

    if arguments.workdir is not None:
        return RunFolder(arguments.workdir)
    path, _, variant = arguments.config_file.partition(":")
    return RunFolder(Path("runs") / "_".join([Path(path).stem, *variant.split()]))


def stored_run(arguments: SimpleNamespace) -> "RunFolder":
    """Return the directory of the run to rank with.

    Raises:
        InputError: the directory holds no run, or the run's config differs from `arguments.config`
            in keys that do more than control ranking.
    """
    folder = run_folder(arguments)
    folder.read_config()  # raises if the directory holds no run
    folder.check_usable(arguments.config, ignored=("config.evaluate", "config.model_parallel"))
    return folder
