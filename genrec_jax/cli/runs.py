"""What the commands on one run share: the flags that name it, and its directory."""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from genrec_jax.cli.cluster import PROCESS_FLAGS
from genrec_jax.core.flags import Flag

if TYPE_CHECKING:  # imports JAX
    from genrec_jax.runs.run_folder import RunFolder

WORKDIR = Flag(
    "workdir",
    "The run's directory; by default runs/NAME[_variant] of --config=configs/NAME.py[:variant].",
    Path,
    expected="DIR",
)
FINISHED = Flag("workdir", "The run's directory.", Path, expected="RUN", required=True)
STEP = Flag("step", "The checkpoint; default the best by validation.", int)
RANKING_FLAGS = (WORKDIR, STEP, *PROCESS_FLAGS)


def run_folder(given: SimpleNamespace) -> "RunFolder":
    """The directory of --workdir, or by default that of the config file.

    configs/beauty.py:small → runs/beauty_small.
    """
    from genrec_jax.runs.run_folder import RunFolder

    if given.workdir is not None:
        return RunFolder(given.workdir)
    path, _, variant = given.config_file.partition(":")
    return RunFolder(Path("runs") / "_".join([Path(path).stem, *variant.split()]))


def stored_run(given: SimpleNamespace) -> "RunFolder":
    """The run that is ranked.

    Raises:
        InputError: there is none, or its config differs from `given.config` in more than how the
            run is ranked.
    """
    folder = run_folder(given)
    folder.read_config()  # there must be a run
    folder.check_usable(given.config, ignored=("config.evaluate", "config.model_parallel"))
    return folder
