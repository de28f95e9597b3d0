"""A run that is killed or stopped at any point ends bit for bit like an uninterrupted run."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tiny_run import EPOCHS, check_same, checkpoints, finish, lines, run, start

STEPS = 2 * EPOCHS * 10


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    code, output, errors = run(folder, cache)
    assert code == 0, output + errors
    return folder


def wait_until(process: subprocess.Popen, condition, seconds: float = 240.0) -> bool:
    """Return whether the condition became true before the process ended."""
    end = time.monotonic() + seconds
    while process.poll() is None:
        if condition():
            return True
        assert time.monotonic() < end, "timed out"
        time.sleep(0.0005)
    return False


def newest(workdir: Path) -> int:
    return max(checkpoints(workdir), default=0)


def is_saving(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*.writing*"))


def kill_often(
    workdir: Path, cache: Path, kills: int, steps: int, changes: tuple[str, ...]
) -> list[tuple[int, bool]]:
    """Kill a run at seeded moments, spread over its steps, and rerun it after each kill.

    Every other kill happens during a save. Return, for each kill, the newest checkpoint and whether
    one was being written when the process died.
    """
    rng = random.Random(8)
    moments = []
    for number in range(kills):
        step = max(steps * (number + rng.random()) / (kills + 1), newest(workdir) + 1)
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = start(workdir, cache, *changes, **silent)
        reached = wait_until(process, lambda step=step: newest(workdir) >= step)
        if number % 2:
            reached = reached and wait_until(process, lambda: is_saving(workdir))
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.wait()
        assert reached, f"the run finished before kill {number + 1}"
        assert process.returncode == -signal.SIGKILL
        moments.append((newest(workdir), is_saving(workdir)))
    return moments


def check_kills(
    whole: Path, workdir: Path, cache: Path, kills: int, steps: int, *changes: str
) -> None:
    moments = kill_often(workdir, cache, kills, steps, changes)
    print("killed at (newest checkpoint, while saving):", moments)
    assert {step < steps // 2 for step, _ in moments} == {True, False}  # in both phases
    assert any(saving for _, saving in moments)
    with (workdir / "metrics.jsonl").open("a") as file:  # a line that a kill cut short
        file.write('{"step": 57, "phase": "finetune", "lo')
    # The steps per dispatch and the moments of saving do not affect the result.
    other = ("--config.steps_per_dispatch=1", "--config.checkpoint_every_steps=4")
    code, output, errors = run(workdir, cache, *changes, *other)
    assert code == 0, output + errors
    check_same(workdir, whole)
    assert "resuming from the checkpoint of step" in (workdir / "log.txt").read_text()
    assert not list(
        (workdir / "checkpoints").glob("*.*")
    )  # no partially written checkpoint remains


def test_a_run_killed_three_times(whole: Path, cache: Path, tmp_path: Path) -> None:
    check_kills(whole, tmp_path / "run", cache, 3, STEPS)


@pytest.mark.slow
def test_a_run_killed_twenty_times(cache: Path, tmp_path: Path) -> None:
    changes = (
        *("--config.pretrain.epochs=10", "--config.finetune.epochs=10"),
        "--config.checkpoint_every_steps=3",
    )
    code, output, errors = run(tmp_path / "whole", cache, *changes)
    assert code == 0, output + errors
    check_kills(tmp_path / "whole", tmp_path / "run", cache, 20, 200, *changes)


def test_sigterm_saves_the_last_step(whole: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    quiet = "--config.checkpoint_every_steps=0"
    process = start(folder, cache, quiet)
    assert wait_until(process, lambda: (folder / "metrics.jsonl").is_file())
    assert wait_until(process, lambda: len(lines(folder)) >= 2)
    process.send_signal(signal.SIGTERM)
    code, _, errors = finish(process)
    assert code == 75, errors
    assert "SIGTERM: saving and stopping; a second signal ends the process immediately" in errors
    assert "stopped by SIGTERM; rerun the command to resume" in errors
    stopped = newest(folder)
    assert 10 <= stopped < STEPS
    code, output, errors = run(folder, cache, quiet)
    assert code == 0, errors
    assert f"resuming from the checkpoint of step {stopped}" in output
    assert lines(folder) == lines(whole)


SLOW_VALIDATION = """
import time
from genrec_jax.training import phase
track = phase.track
def slow(batches, label, total):
    for batch in track(batches, label, total):
        print("ranking", flush=True)
        time.sleep(2)
        yield batch
phase.track = slow
"""


def test_signals_while_validating(cache: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder, cache, code=SLOW_VALIDATION)
    for line in process.stdout:
        if line == "ranking\n":
            break
    process.send_signal(signal.SIGINT)
    code, _, errors = finish(process)
    assert code == 75, errors
    assert "stopped by SIGINT" in errors
    assert newest(folder) == 15
    # The interrupted validation is repeated; a second signal ends the process without waiting.
    process = start(folder, cache, code=SLOW_VALIDATION.replace("sleep(2)", "sleep(1000)"))
    for line in process.stdout:
        if line == "ranking\n":
            break
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    code, _, errors = finish(process)
    assert code == 128 + signal.SIGINT, errors
    code, output, errors = run(folder, cache)
    assert code == 0, output + errors
    assert lines(folder) == lines(whole)


# Like a compilation of XLA: one call into C without Python's lock, which no handler interrupts.
SLOW_COMPILATION = """
import ctypes
from genrec_jax.training import phase
class Slow(phase.MultiStepTrainer):
    def program(self, state, dispatch):
        print("compiling", flush=True)
        sleep = ctypes.CDLL(None).select
        seconds = (ctypes.c_long * 2)(1000, 0)
        while sleep(0, None, None, None, seconds):
            pass  # a signal ends `select` early
        return super().program(state, dispatch)
phase.MultiStepTrainer = Slow
"""


def test_a_second_signal_while_compiling(cache: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "run", cache, code=SLOW_COMPILATION)
    for line in process.stdout:
        if line == "compiling\n":
            break
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    code, _, errors = finish(process)
    assert code == 128 + signal.SIGTERM, errors
