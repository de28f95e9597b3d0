"""A stop that is announced is obeyed, wherever in a command the signal comes.

The signal is sent where a function of ours has just returned, to this very process.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeping import ABLATION
from sweeping import run as run_sweep
from test_main import CONFIG, SMALL_MODEL, command
from tiny_run import check_same, checkpoints

from genrec_jax.core.errors import Stopped
from genrec_jax.core.signals import stop_on_signals
from genrec_jax.decoding import predictions
from genrec_jax.evaluation import evaluate
from genrec_jax.reporting import run_report
from genrec_jax.runs.checkpoint import Checkpoints
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.sweeps import sweep, table
from genrec_jax.sweeps.trials import Trial
from genrec_jax.training import train

ANNOUNCED = "SIGTERM: saving and stopping; a second signal ends the process immediately\n"
STOPPED = "stopped by SIGTERM; rerun the command to resume\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no signal met."""
    folder = tmp_path_factory.mktemp("stopping") / "whole"
    assert run(folder) == 0
    return folder


@pytest.fixture
def trained(whole: Path, tmp_path: Path) -> Path:
    """A copy of the finished run from before its test: trained, not ranked."""
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    (folder / "results.json").unlink()
    (folder / "report.html").unlink()
    shutil.rmtree(folder / "predictions")
    (folder / "predictions").mkdir()
    return folder


def run(folder: Path) -> int:
    return command(CONFIG, f"--workdir={folder}", *SMALL_MODEL)


def then_signal(work: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **more: Any) -> Any:
        result = work(*arguments, **more)
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    return wrapped


def left(folder: Path) -> list[str]:
    """Which of the files that a run writes one after the other are there."""
    order = ("config.json", "predictions/test.parquet", "results.json", "report.html")
    return [name for name in order if (folder / name).is_file()]


@pytest.fixture
def stop_after(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Any, str, Path], None]:
    """Run in a folder until a function first returns; SIGTERM comes there, and is obeyed."""

    def stop(place: Any, name: str, folder: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, then_signal(getattr(place, name)))
            assert run(folder) == 75
        assert capsys.readouterr().err == ANNOUNCED + STOPPED

    return stop


@pytest.mark.parametrize(
    ("place", "name", "files"),
    [
        (Checkpoints, "params", 1),
        (predictions, "_publish", 2),
        (evaluate, "choose_settings", 2),
        (evaluate, "baseline_rankings", 2),
        (evaluate, "evaluation_summary", 2),
        (evaluate, "versions", 2),
        (RunFolder, "write_results", 3),
        (run_report, "write_page", 4),
        (run_report, "result_table", 4),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stop_after_training(
    place: Any,
    name: str,
    files: int,
    trained: Path,
    whole: Path,
    stop_after: Callable[[Any, str, Path], None],
) -> None:
    """Nothing is written after what was under way, and rerunning the command writes the rest."""
    stop_after(place, name, trained)
    assert left(trained) == left(whole)[:files]
    assert run(trained) == 0
    assert left(trained) == left(whole)
    check_same(trained, whole)
    lists = "predictions/test.parquet"
    assert (trained / lists).read_bytes() == (whole / lists).read_bytes()


@pytest.mark.parametrize("name", ["load_all", "start_params", "log_statistics", "make_phases"])
def test_a_stop_before_training(
    name: str, whole: Path, tmp_path: Path, stop_after: Callable[[Any, str, Path], None]
) -> None:
    folder = tmp_path / "run"
    stop_after(train.ModelSetup if name == "start_params" else train, name, folder)
    if name in ("load_all", "start_params"):
        assert not folder.exists()
    assert checkpoints(folder) == []
    if name == "make_phases":  # the last of them: most is there already
        assert run(folder) == 0
        check_same(folder, whole)


def test_a_stop_between_the_phases(
    whole: Path, tmp_path: Path, stop_after: Callable[[Any, str, Path], None]
) -> None:
    folder = tmp_path / "run"
    stop_after(train.PhaseRunner, "run", folder)
    assert checkpoints(folder) == [4]  # the end of pretraining
    assert run(folder) == 0
    check_same(folder, whole)


def test_a_signal_at_the_very_end_ends_in_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    """Between the last look and the end of the context; and after it the default is back."""

    def work() -> None:
        with stop_on_signals() as stop:
            stop.check()
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM"):
        work()
    assert capsys.readouterr().err == ANNOUNCED
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_sweep_that_is_stopped_in_its_last_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All trials are through; the second table is the last one."""
    result = {"counts": {"best_step": 1}, "metrics": {}, "references": {}}
    monkeypatch.setattr(Trial, "is_finished", property(lambda trial: True))
    monkeypatch.setattr(table, "ablation_rows", lambda *_: [])
    monkeypatch.setattr(table, "baseline_means", lambda *_: {})
    monkeypatch.setattr(sweep, "_trial_record", lambda *_: result)
    with monkeypatch.context() as patch:
        patch.setattr(table, "write", then_signal(table.write))
        assert run_sweep(tmp_path / "sweep", ABLATION) == 75
    assert capsys.readouterr().err == ANNOUNCED + STOPPED
    assert run_sweep(tmp_path / "sweep", ABLATION) == 0
    assert json.loads((tmp_path / "sweep" / "trials.json").read_text()) == [result] * 4
