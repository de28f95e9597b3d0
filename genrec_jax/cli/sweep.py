"""Run many settings with several seeds, or search over ranges.

Each trial is an ordinary run, `WORKDIR/runs/TRIAL`, with all that a run leaves; its console output
is `WORKDIR/logs/TRIAL.txt`. The same command again skips finished trials, resumes those that were
stopped, and retries the failed ones. --workers runs several side by side: each has its share of the
cores and of a GPU's memory. --config.KEY=VALUE applies to all trials; what the sweep file sets
overrides it.

The best trial is chosen on validation alone. After each trial, `WORKDIR/table.md` and `report.html`
hold the table so far. Exit code 1 means that some trials failed; the log names them.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.core.endings import RESUMABLE
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import Flag


class SweepCommand(Command):
    """A command whose --config flags are not its own: they are passed on to every trial."""

    def parse(self, argv: Sequence[str]) -> SimpleNamespace:
        common = [argument for argument in argv if argument.startswith("--config.")]
        for argument in common:
            if "=" not in argument:
                raise InputError(f"{argument}: found no value, expected --config.KEY=VALUE")
        given = super().parse([argument for argument in argv if argument not in common])
        given.common = tuple(common)
        return given


def run(given: SimpleNamespace) -> int:
    import jax

    from genrec_jax.sweeps.sweep import Asked, run_sweep

    jax.config.update("jax_platforms", "cpu")  # of this process: the device is the trials'
    workdir = given.workdir or Path("runs") / "sweeps" / given.sweep.stem
    return run_sweep(Asked(given.config, given.sweep, workdir, given.workers, given.common))


main = SweepCommand(
    "sweep",
    "--config=FILE[:variant] --sweep=configs/sweeps/NAME.py [--workdir=DIR] [--workers=N] "
    "[--config.KEY=VALUE …]",
    __doc__ or "",
    run,
    (
        Flag("config", "What the trials change.", expected="FILE[:variant]", required=True),
        Flag("sweep", "The settings or ranges.", Path, expected="FILE", required=True),
        Flag("workdir", "Default runs/sweeps/NAME.", Path, expected="DIR"),
        Flag("workers", "Trials side by side.", int, 1, least=1),
    ),
    interrupted=RESUMABLE,
)
