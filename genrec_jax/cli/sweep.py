"""Many small runs from one command: named settings with seeds, or a search over ranges.

    python -m genrec_jax sweep --config=FILE[:variant] --sweep=configs/sweeps/NAME.py \\
        [--workdir=runs/sweeps/NAME] [--workers=N] [--config.KEY=VALUE …]

Each trial is an ordinary run, `WORKDIR/runs/TRIAL`, with all that a run leaves; its console is
`WORKDIR/logs/TRIAL.txt`. The same command again skips the finished ones, goes on with those that
were cut, and tries the failed ones again. --workers runs several side by side: each has its share
of the cores and of a GPU's memory. --config.KEY=VALUE goes to all trials; what the sweep sets goes
over it.

The best is chosen by validation alone. At the end, and after each trial, `WORKDIR/table.md` and
`report.html` hold the table. Exit codes: 0, all are through; 1, some are not, which the log names;
2, bad input, told before anything starts; 74, the disk; 75, stopped by SIGTERM or SIGINT, go on
with the same command.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax

from genrec_jax.core.endings import RESUMABLE, run_command
from genrec_jax.core.errors import InputError
from genrec_jax.core.progress import logging_to_console
from genrec_jax.sweeps.sweep import Asked, run_sweep


def arguments(argv: Sequence[str]) -> Asked:
    """Raises InputError for flags that do not do."""
    parser = argparse.ArgumentParser(
        prog="python -m genrec_jax sweep",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:variant]")
    parser.add_argument("--sweep", required=True, type=Path, metavar="FILE")
    parser.add_argument("--workdir", type=Path, metavar="DIR")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    found, common = parser.parse_known_args(argv[1:])
    for flag in common:
        if not flag.startswith("--config.") or "=" not in flag:
            raise InputError(f"{flag}: not a flag, expected --config.KEY=VALUE")
    if found.workers < 1:
        raise InputError(f"--workers: found {found.workers}, expected at least 1")
    workdir = found.workdir or Path("runs") / "sweeps" / found.sweep.stem
    return Asked(found.config, found.sweep, workdir, found.workers, tuple(common))


@logging_to_console()
def main(argv: Sequence[str]) -> int:
    jax.config.update("jax_platforms", "cpu")  # of this process: the device is the trials'
    return run_command(lambda: run_sweep(arguments(argv)), RESUMABLE)
