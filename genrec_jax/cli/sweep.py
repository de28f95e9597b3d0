"""Run many settings with several seeds, or search over ranges.

Each trial is an ordinary run in `WORKDIR/runs/TRIAL`; its console output is in
`WORKDIR/logs/TRIAL.txt`. Rerunning the command skips finished trials, resumes stopped ones and
retries failed ones. With --workers, several trials run side by side, each with an equal share of
the cores and of a GPU's memory. --config.KEY=VALUE applies to all trials, but the sweep file's own
values take precedence.

The best trial is chosen on validation only. After each trial, `WORKDIR/table.md` and
`WORKDIR/report.html` are updated. Exit code 1 means that some trials failed; the log names them.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from genrec_jax.cli.command import Command
from genrec_jax.core.endings import RESUMABLE
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import Flag


class SweepCommand(Command):
    """A command that passes its --config.KEY flags on to every trial instead of parsing them."""

    @property
    def documented_flags(self) -> tuple[Flag, ...]:
        """The flags that --help lists."""
        text = "Set a key of config in all trials; may be repeated."
        return (*self.flags, Flag("config.KEY", text, expected="VALUE"))

    def parse(self, argv: Sequence[str]) -> SimpleNamespace:
        """Return the values of the flags, and the --config.KEY flags as `common`.

        Raises:
            InputError: the command line is invalid.
        """
        common = [argument for argument in argv if argument.startswith("--config.")]
        for argument in common:
            if "=" not in argument:
                raise InputError(f"{argument}: found no value, expected --config.KEY=VALUE")
        arguments = super().parse([argument for argument in argv if argument not in common])
        arguments.common = tuple(common)
        return arguments


def run(arguments: SimpleNamespace) -> int:
    """Run the command and return its exit code."""
    import jax

    from genrec_jax.sweeps.sweep import SweepRequest, run_sweep

    jax.config.update("jax_platforms", "cpu")  # in this process; the trials use the accelerator
    workdir = arguments.workdir or Path("runs") / "sweeps" / arguments.sweep.stem
    request = SweepRequest(
        arguments.config, arguments.sweep, workdir, arguments.workers, arguments.common
    )
    return run_sweep(request)


main = SweepCommand(
    "sweep",
    "--config=FILE[:variant] --sweep=configs/sweeps/NAME.py [--workdir=DIR] [--workers=N] "
    "[--config.KEY=VALUE …]",
    __doc__ or "",
    run,
    (
        Flag(
            "config",
            "The config file that the trials start from, such as configs/NAME.py[:variant].",
            expected="FILE[:variant]",
            required=True,
        ),
        Flag(
            "sweep",
            "The sweep file, which defines the settings and seeds, or the ranges to search.",
            Path,
            expected="FILE",
            required=True,
        ),
        Flag(
            "workdir",
            "The directory of the sweep. Default: runs/sweeps/NAME.",
            Path,
            expected="DIR",
        ),
        Flag("workers", "The number of trials to run side by side.", int, 1, least=1),
    ),
    interrupted=RESUMABLE,
)
