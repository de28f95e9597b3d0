"""The trials of a sweep file, run side by side, and their table."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from genrec_jax.core.disk import write_atomically
from genrec_jax.core.errors import InputError
from genrec_jax.core.file_lock import locked
from genrec_jax.core.shipped import find_config
from genrec_jax.core.signals import stop_on_signals
from genrec_jax.sweeps import table
from genrec_jax.sweeps.ablation import AblationRuns, ablation_trials
from genrec_jax.sweeps.pool import Ended, run_all
from genrec_jax.sweeps.spec import Ablation, Search, load_sweep
from genrec_jax.sweeps.trials import Trial

log = logging.getLogger(__name__)


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


@contextlib.contextmanager
def naming_the_file(asked: Asked) -> Iterator[None]:
    """Within, an InputError gets the sweep file in front."""
    try:
        yield
    except InputError as error:
        raise InputError(f"--sweep={asked.sweep}: {error}") from None


def run_ablation(sweep: Ablation, asked: Asked) -> int:
    with naming_the_file(asked):
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
    with naming_the_file(asked):
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


def run_sweep(asked: Asked) -> int:
    """Run all trials of a sweep file; returns the exit code, 1 if a trial is not through.

    Raises:
        InputError: a file that is missing or wrong, or a trial's directory with another run.
    """
    find_config(asked.config)
    sweep = load_sweep(asked.sweep)
    if isinstance(sweep, Search):
        return run_search(sweep, asked)
    return run_ablation(sweep, asked)
