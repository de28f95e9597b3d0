"""Many small runs from one command: named settings with seeds, or a search over ranges.

    python -m genrec_jax.sweep --config=FILE[:variant] --sweep=configs/sweeps/NAME.py \\
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
import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from genrec_jax.endings import RESUMABLE, run_command
from genrec_jax.errors import InputError
from genrec_jax.progress import logging_to_console
from genrec_jax.run_folder import write_atomically
from genrec_jax.run_lock import locked
from genrec_jax.shipped import find_config
from genrec_jax.signals import stop_on_signals
from genrec_jax.sweeps import table
from genrec_jax.sweeps.ablation import AblationRuns, ablation_trials
from genrec_jax.sweeps.pool import Ended, run_all
from genrec_jax.sweeps.spec import Ablation, Search, load_sweep
from genrec_jax.sweeps.trials import Trial

log = logging.getLogger("genrec_jax.sweep")  # as a command too


@dataclasses.dataclass(frozen=True)
class Asked:
    """The command's arguments."""

    config: str
    sweep: Path
    workdir: Path
    workers: int
    common: tuple[str, ...]  # --config.k=v


class WallTimes:
    """Seconds that each trial took so far, over all attempts; in `seconds.json`."""

    def __init__(self, path: Path):
        self.path = path
        self.of: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    def add(self, end: Ended) -> None:
        self.of[end.trial.name] = self.of.get(end.trial.name, 0.0) + end.seconds
        write_atomically(self.path, json.dumps(self.of, indent=2) + "\n")


def arguments(argv: Sequence[str]) -> Asked:
    """Raises InputError for flags that do not do."""
    parser = argparse.ArgumentParser(
        prog="genrec_jax.sweep",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:variant]")
    parser.add_argument("--sweep", required=True, type=Path, metavar="FILE")
    parser.add_argument("--workdir", type=Path, metavar="DIR")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    found, common = parser.parse_known_args(argv)
    for flag in common:
        if not flag.startswith("--config.") or "=" not in flag:
            raise InputError(f"{flag}: not a flag, expected --config.KEY=VALUE")
    if found.workers < 1:
        raise InputError(f"--workers: found {found.workers}, expected at least 1")
    workdir = found.workdir or Path("runs") / "sweeps" / found.sweep.stem
    return Asked(found.config, found.sweep, workdir, found.workers, tuple(common))


def run_ablation(sweep: Ablation, asked: Asked) -> int:
    trials = ablation_trials(sweep, asked.config, asked.common, asked.workdir / "runs")

    def report(source: AblationRuns, times: WallTimes) -> str:
        rows = table.ablation_rows(trials, times.of, source.failures)
        beat = table.lines_to_beat(trials)
        cells = table.ablation_table(rows, beat)
        chart = table.ablation_chart(rows, beat)
        lines = [_trial_line(trial, source, times) for trial in trials]
        return table.write(asked.workdir, cells, chart, table.ABLATION_NOTE, lines)

    return carry_out(asked, lambda: AblationRuns(trials), report)


def run_search(sweep: Search, asked: Asked) -> int:
    try:
        from genrec_jax.sweeps.search import SearchRuns, check_search
    except ModuleNotFoundError as error:
        raise InputError(
            f"--sweep={asked.sweep}: a search needs {error.name}: pip install 'optuna>=5.0'"
        ) from None
    check_search(sweep, asked.config, asked.common)

    def report(source: SearchRuns, times: WallTimes) -> str:
        tried = source.tried(times.of)
        cells, chart = table.search_table(tried), table.search_chart(tried)
        lines = [dataclasses.asdict(one) for one in tried]
        text = table.write(asked.workdir, cells, chart, table.SEARCH_NOTE, lines)
        return f"{text}\n{source.best_command()}"

    def make() -> SearchRuns:
        return SearchRuns(sweep, asked.config, asked.common, asked.workdir, asked.workers)

    return carry_out(asked, make, report)


def carry_out(
    asked: Asked, make: Callable[[], Any], report: Callable[[Any, WallTimes], str]
) -> int:
    """Run all trials of the source that `make` makes; its table is written after each.

    Returns:
        The exit code: 1 if a trial is not through.
    """
    with (
        stop_on_signals() as stop,
        locked(asked.workdir / "sweep.lock", f"--workdir={asked.workdir}"),
    ):
        source = make()
        times = WallTimes(asked.workdir / "seconds.json")

        def tell(end: Ended) -> None:
            times.add(end)
            report(source, times)

        run_all(source, asked.workers, asked.workdir / "logs", stop, tell)
        log.info("\n%s", report(source, times))
    for name, reason in source.unfinished.items():
        log.info("FAILED: %s: %s", asked.workdir / "runs" / name, reason)
    log.info("\nthe same with a chart: %s", asked.workdir / "report.html")
    return 1 if source.unfinished else 0


def _trial_line(trial: Trial, source: AblationRuns, times: WallTimes) -> dict[str, Any]:
    """Of trials.json."""
    result, mixed = trial.result, trial.mixed
    return {
        "name": trial.name,
        "setting": trial.label,
        "seed": trial.seed,
        "flags": trial.flags,
        "failed": source.failures.get(trial.name),
        "seconds": times.of.get(trial.name),
        "validation": None if result is None else trial.score(),
        "test": None if result is None else result["metrics"],
        "mixed": None if mixed is None else mixed["metrics"],
    }


def run(argv: Sequence[str]) -> int:
    asked = arguments(argv)
    find_config(asked.config)
    sweep = load_sweep(asked.sweep)
    if isinstance(sweep, Search):
        return run_search(sweep, asked)
    return run_ablation(sweep, asked)


@logging_to_console()
def main(argv: Sequence[str]) -> int:
    jax.config.update("jax_platforms", "cpu")  # of this process: the device is the trials'
    return run_command(lambda: run(argv), RESUMABLE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
