"""Run the trials of a sweep file in parallel and write their table after each."""

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
from genrec_jax.sweeps.pool import TrialResult, run_all
from genrec_jax.sweeps.spec import Ablation, Search, load_sweep
from genrec_jax.sweeps.trials import Trial

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SweepRequest:
    """The arguments of the sweep command."""

    config: str  # FILE[:variant]
    sweep: Path  # the sweep file
    workdir: Path
    workers: int  # number of trials that run at the same time
    common: tuple[str, ...]  # flags --config.k=v for all trials


class WallTimes:
    """The wall time of each trial in seconds, over all its attempts, stored in `seconds.json`.

    Args:
        path: the file; it is created by the first `add`.
    """

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    def add(self, result: TrialResult) -> None:
        """Add the time of one attempt and write the file."""
        name = result.trial.name
        self.seconds[name] = self.seconds.get(name, 0.0) + result.seconds
        write_atomically(self.path, json.dumps(self.seconds, indent=2) + "\n")


@contextlib.contextmanager
def sweep_file_errors(request: SweepRequest) -> Iterator[None]:
    """Prefix every InputError inside the block with the sweep file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"--sweep={request.sweep}: {error}") from None


def run_ablation(sweep: Ablation, request: SweepRequest) -> int:
    """Run the trials of an ablation.

    Returns:
        The exit code: 1 if a trial has not finished.

    Raises:
        InputError: the ablation is invalid, or a run directory contains another run.
        Stopped: the sweep received a signal.
    """
    with sweep_file_errors(request):
        trials = ablation_trials(sweep, request.config, request.common, request.workdir / "runs")

    def write_report(source: AblationRuns, times: WallTimes) -> str:
        rows = table.ablation_rows(trials, times.seconds, source.failures)
        baselines = table.baseline_means(trials)
        cells = table.ablation_table(rows, baselines)
        chart = table.ablation_chart(rows, baselines)
        records = [_trial_record(trial, source, times) for trial in trials]
        return table.write(request.workdir, cells, chart, table.ABLATION_NOTE, records)

    return run_trials(request, lambda: AblationRuns(trials), write_report)


def run_search(sweep: Search, request: SweepRequest) -> int:
    """Run the trials of a search.

    Returns:
        The exit code: 1 if a trial has not finished.

    Raises:
        InputError: the search is invalid, differs from the one in the workdir, or requires a
            package that is not installed.
        Stopped: the sweep received a signal.
    """
    try:
        from genrec_jax.sweeps.search import SearchRuns, check_search
    except ModuleNotFoundError as error:
        raise InputError(
            f"--sweep={request.sweep}: a search requires {error.name}: pip install 'optuna>=5.0'"
        ) from None
    with sweep_file_errors(request):
        check_search(sweep, request.config, request.common)

    def write_report(source: SearchRuns, times: WallTimes) -> str:
        trials = source.completed_trials(times.seconds)
        cells, chart = table.search_table(trials), table.search_chart(trials)
        records = [dataclasses.asdict(trial) for trial in trials]
        text = table.write(request.workdir, cells, chart, table.SEARCH_NOTE, records)
        return f"{text}\n{source.best_command()}"

    def open_source() -> SearchRuns:
        return SearchRuns(sweep, request.config, request.common, request.workdir, request.workers)

    return run_trials(request, open_source, write_report)


def run_trials(
    request: SweepRequest,
    open_source: Callable[[], Any],
    write_report: Callable[[Any, WallTimes], str],
) -> int:
    """Run all trials of a source and write the report after each.

    Args:
        request: the command's arguments.
        open_source: creates the source, once the sweep's directory is locked.
        write_report: writes the report files and returns the table as text.

    Returns:
        The exit code: 1 if a trial has not finished.
    """
    with (
        stop_on_signals() as stop,
        locked(request.workdir / "sweep.lock", f"--workdir={request.workdir}"),
    ):
        source = open_source()
        times = WallTimes(request.workdir / "seconds.json")

        def on_result(result: TrialResult) -> None:
            times.add(result)
            write_report(source, times)

        run_all(source, request.workers, request.workdir / "logs", stop, on_result)
        log.info("\n%s", write_report(source, times))
    for name, reason in source.unfinished.items():
        log.info("not finished: %s: %s", request.workdir / "runs" / name, reason)
    log.info("\ntable with chart: %s", request.workdir / "report.html")
    return 1 if source.unfinished else 0


def _trial_record(trial: Trial, source: AblationRuns, times: WallTimes) -> dict[str, Any]:
    """Return the entry of a trial in trials.json."""
    result, ensemble = trial.result, trial.ensemble_result
    return {
        "name": trial.name,
        "setting": trial.label,
        "seed": trial.seed,
        "flags": trial.flags,
        "failed": source.failures.get(trial.name),
        "seconds": times.seconds.get(trial.name),
        "validation": None if result is None else trial.score(),
        "test": None if result is None else result["metrics"],
        "ensemble": None if ensemble is None else ensemble["metrics"],
    }


def run_sweep(request: SweepRequest) -> int:
    """Run all trials of a sweep file.

    Args:
        request: the command's arguments.

    Returns:
        The exit code: 1 if a trial has not finished.

    Raises:
        InputError: a file is missing or invalid, or a trial's directory contains another run.
        Stopped: the sweep received a signal.
    """
    find_config(request.config)
    sweep = load_sweep(request.sweep)
    if isinstance(sweep, Search):
        return run_search(sweep, request)
    return run_ablation(sweep, request)
