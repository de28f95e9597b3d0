"""Runs on several devices or in several processes equal the run on one device up to rounding."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_run
from repository import ROOT
from tiny_run import ARGUMENTS, EPOCHS, checkpoints, finish, lines

from genrec_jax.core.devices import Devices
from genrec_jax.core.errors import InputError
from genrec_jax.core.file_lock import locked
from genrec_jax.data.sequences import Examples
from genrec_jax.main import main
from genrec_jax.training.multi_step import put_examples

FOUR_DEVICES = "--xla_force_host_platform_device_count=4"
LITTLE_EFFORT = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
SAVE_RARELY = "--config.checkpoint_every_steps=0"
# Only one phase, and a search that compiles quickly.
SHORT = [
    *("--config.pretrain.epochs=0", "--config.finetune.epochs=1"),
    "--config.evaluate.search=exhaustive",
]
GLOO = (
    "[Gloo] Rank 1 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1\n"
)
# Makes steps slow and listeners fast, so that a signal arrives before the run ends.
SLOW_STEPS = """
import time
from genrec_jax.training import phase
from genrec_jax.core import processes
processes.SECONDS_BETWEEN_LOOKUPS = 0.05
class Slow(phase.MultiStepTrainer):
    def run(self, *arguments):
        time.sleep(0.2)
        return super().run(*arguments)
phase.MultiStepTrainer = Slow
"""


def start(workdir: Path, cache: Path, *changes: str, code: str = "", xla: str = "") -> Any:
    """Start a run in a process where XLA optimises little, because most of its time is compilation.

    The flags are set for that process only. The programs that this process compiles for later tests
    must be the same as in other processes.
    """
    variables = {"GENREC_CACHE_DIR": str(cache), "XLA_FLAGS": f"{LITTLE_EFFORT} {xla}"}
    environment = {**os.environ, **variables}
    return tiny_run.start(workdir, cache, *changes, code=code, env=environment)


def run(workdir: Path, cache: Path, *changes: str) -> tuple[int, str, str]:
    return finish(start(workdir, cache, *changes))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def on_one(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The run on one device."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    code, output, errors = run(folder, cache)
    assert code == 0, output + errors
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start_two(workdir: Path, cache: Path, *changes: str, code: str = "") -> list[Any]:
    """Start one run in two processes with one CPU device each, connected by gloo."""
    flags = [*changes, f"--coordinator=localhost:{free_port()}", "--processes=2"]
    return [start(workdir, cache, *flags, f"--process={number}", code=code) for number in range(2)]


def run_two(workdir: Path, cache: Path, *changes: str) -> list[tuple[int, str, str]]:
    return [finish(process) for process in start_two(workdir, cache, *changes)]


def start_on_four(workdir: Path, cache: Path, *changes: str, code: str = "") -> Any:
    """Start a run in one process with four devices."""
    return start(workdir, cache, *changes, code=code, xla=FOUR_DEVICES)


def run_on_four(workdir: Path, cache: Path, *changes: str) -> tuple[int, str, str]:
    return finish(start_on_four(workdir, cache, *changes))


def table(output: str) -> str:
    """Return the last table of metrics of an output, without the time it took."""
    return output[output.rindex("synthetic, validation") :]


def check_equal(actual: Path, reference: Path) -> None:
    """Compare losses and metrics of two finished runs to 1e-5 relative; each user counts once."""
    for line, expected in zip(lines(actual), lines(reference), strict=True):
        assert line.keys() == expected.keys()
        for name, value in expected.items():
            close = value if isinstance(value, str) else pytest.approx(value, rel=1e-5)
            assert line[name] == close, (name, expected["step"])
    results = [json.loads((folder / "results.json").read_text()) for folder in (actual, reference)]
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"], rel=1e-5)
    assert results[0]["counts"] == results[1]["counts"]
    assert results[0]["counts"]["users"] == 80  # in batches of 64


# ------------------------------------------------------------------ whole runs


def test_two_processes_are_one_run(cache: Path, tmp_path: Path) -> None:
    """Finetuning only, with tables in two parts; the longer tests are `slow`."""
    single = start(tmp_path / "one", cache, *SHORT)  # at the same time, to use all cores
    pair = start_two(tmp_path / "two", cache, *SHORT, "--config.model_parallel=2")
    done = [finish(process) for process in (*pair, single)]
    for code, output, errors in done:
        assert code == 0, output + errors
    assert "2 x cpu in 2 processes, id tables in 2 parts" in done[0][1]
    check_equal(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_two_processes_stop_together_and_four_devices_resume(
    on_one: Path, cache: Path, tmp_path: Path
) -> None:
    """SIGTERM to process 1 only; then one process with four devices and tables in two parts."""
    folder = tmp_path / "run"
    processes = start_two(folder, cache, SAVE_RARELY, code=SLOW_STEPS)
    for line in processes[0].stdout:
        if line.startswith("finetune step"):
            break
    processes[1].send_signal(signal.SIGTERM)
    (code, _, errors), (second_code, output, second_errors) = map(finish, processes)
    assert (code, second_code) == (75, 75), errors + second_errors
    assert "stopped by SIGTERM; rerun the command to resume" in errors
    assert output.replace(GLOO, "") == ""  # only process 0 prints
    assert "stopped by" not in second_errors
    stopped = checkpoints(folder)[-1]
    assert EPOCHS * 10 < stopped < 2 * EPOCHS * 10
    assert not (folder / "run.lock").exists()

    code, output, errors = run_on_four(folder, cache, SAVE_RARELY, "--config.model_parallel=2")
    assert code == 0, output + errors
    assert f"resuming from the checkpoint of step {stopped}" in output
    assert "4 x cpu in 1 process, id tables in 2 parts" in output
    check_equal(folder, on_one)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_two_processes(parts: int, on_one: Path, cache: Path, tmp_path: Path) -> None:
    """A whole run; then two processes rank with a run of one device, and one with theirs."""
    folder = tmp_path / "run"
    for code, output, errors in run_two(folder, cache, f"--config.model_parallel={parts}"):
        assert code == 0, output + errors
    check_equal(folder, on_one)
    evaluate = ["--mode=evaluate", "--split=validation"]
    code, output, errors = run(folder, cache, *evaluate, "--config.model_parallel=1")
    assert code == 0, errors
    pairs = [finish(one) for one in start_two(on_one, cache, *evaluate)]
    assert [code for code, _, _ in pairs] == [0, 0], pairs
    assert table(pairs[0][1]) == table(output)
    files = [folder / "predictions" / "evaluate_validation.parquet" for folder in (folder, on_one)]
    actual, reference = map(pq.read_table, files)
    assert actual["user"].to_pylist() == reference["user"].to_pylist()
    assert len(set(actual["user"].to_pylist())) == 80
    assert actual["items"].to_pylist() == reference["items"].to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_four_devices(parts: int, on_one: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    changes = [f"--config.model_parallel={parts}", "--config.finetune.accumulate=2"]
    code, output, errors = run_on_four(folder, cache, *changes)
    assert code == 0, output + errors
    accumulated = tmp_path / "one"
    code, output, errors = run(accumulated, cache, changes[1])
    assert code == 0, output + errors
    check_equal(folder, accumulated)


@pytest.mark.slow
def test_two_processes_resume_from_four_devices(on_one: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start_on_four(folder, cache, "--config.model_parallel=4", code=SLOW_STEPS)
    for line in process.stdout:
        if line.startswith("finetune step"):
            break
    process.kill()
    finish(process)
    for code, output, errors in run_two(folder, cache):
        assert code == 0, output + errors
    check_equal(folder, on_one)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other(cache: Path, tmp_path: Path) -> None:
    """JAX notices by heartbeat or broken connection; the run then resumes from its checkpoint."""
    folder = tmp_path / "run"
    first, second = start_two(folder, cache, code=SLOW_STEPS)
    for line in first.stdout:
        if line.startswith("pretrain step 20"):
            break
    second.kill()
    finish(second)
    code, _, _ = finish(first)
    assert code not in (0, 75)
    for code, output, errors in run_two(folder, cache):
        assert code == 0, output + errors
    assert "resuming from the checkpoint of step" in (folder / "log.txt").read_text()


# ------------------------------------------------------------------ invalid flags and sizes


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_in_both_processes(
    on_one: Path, cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(on_one, folder)
    (folder / "results.json").unlink()
    with locked(folder / "run.lock", "--workdir=run"):
        (code, _, errors), (second_code, _, second_errors) = run_two(folder, cache)
    assert (code, second_code) == (2, 2)
    assert "in use by another process (pid" in errors
    assert "error" not in second_errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--process=1", "--processes=2"], "--coordinator: missing"),
        (["--coordinator=a:1", "--process=2", "--processes=2"], "--process: found 2, expected a"),
        *(
            (
                [f"--coordinator={text}", "--process=0", "--processes=2"],
                f"--coordinator: found '{text}'",
            )
            for text in ("nonsense", "a:b", "a:", "a:99999", "a:0", ":5")
        ),
        (["--distributed", "--processes=2"], "--distributed: found together with --coordinator"),
        (
            ["--mode=audit", "--coordinator=a:1"],
            "--coordinator: no such flag; it is a flag of train",
        ),
        (["--config.model_parallel=2"], "config.model_parallel: found 2, expected a divisor of"),
        (["--config.model_parallel=0"], "config.model_parallel: found 0, expected at least 1"),
    ],
)
def test_flags(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["main", *ARGUMENTS, f"--workdir={tmp_path / 'run'}", *flags]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--config.pretrain.batch_size=6", "config.pretrain.batch_size: found 6, expected a"),
        ("--config.finetune.accumulate=4", "config.finetune.batch_size / accumulate = 4: found 2,"),
        ("--config.evaluate.batch_size=30", "config.evaluate.batch_size: found 30, expected a"),
        ("--config.model_parallel=3", "config.model_parallel: found 3, expected a divisor of the"),
    ],
)
def test_batch_sizes_that_four_devices_cannot_split(
    change: str, message: str, cache: Path, tmp_path: Path
) -> None:
    code, _, errors = run_on_four(tmp_path / "run", cache, change)
    assert code == 2
    assert f"error: {message}" in errors
    assert not (tmp_path / "run").exists()


def test_more_interactions_than_a_device_can_number() -> None:
    one = np.zeros(1, np.int64)
    many = np.broadcast_to(np.zeros(1, np.int32), 2**31)  # 4 bytes
    with pytest.raises(InputError, match="found 2147483648 interactions, expected at most 21474"):
        put_examples(Examples(many, one, one, one, one))


# ------------------------------------------------------------------ agreements


def test_processes_agree() -> None:
    """Three processes without devices agree on results, failures, and when to save and stop."""
    address = f"localhost:{free_port()}"
    script = str(ROOT / "tests" / "agreeing.py")
    command = [sys.executable, script, address, "3"]
    running = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(3)
    ]
    answers = [json.loads(one.communicate(timeout=120)[0].splitlines()[-1]) for one in running]
    assert [one.returncode for one in running] == [0, 0, 0]
    for number, answer in enumerate(answers):
        assert answer["process 0"] == [1, 2.5]
        assert answer["barrier"] == number
        assert answer["failures"] == ["from 0", "from 1", "from 2"]
        assert answer["not finite"] == [3, "loss inf"]
        assert answer["unknown"] == ("KeyError: x" if number else "'x'")
        assert answer["nested"] == 5
        assert answer["stopped"] == answers[0]["stopped"]
        assert answer["saved"] == answers[0]["saved"]
        assert answer["unsaved"] == answers[0]["unsaved"]
        assert answer["gathered"] == [0, 1, 2]
        assert answer["late"] == "SIGINT"
        assert answer["never"] is None
    assert answers[0]["stopped"][1] == "SIGTERM"
    assert answers[0]["stopped"][0] >= answers[0]["saved"][-1]
    # The third save and the stop are requested together. If the stop comes first, the save remains
    # requested in all processes.
    third_is_requested = answers[0]["unsaved"] is not None
    assert len(answers[0]["saved"]) == (2 if third_is_requested else 3)


def test_one_device_is_also_a_mesh() -> None:
    devices = Devices.all()
    assert devices.count == 1
    assert str(devices) == "1 x cpu in 1 process, id tables in 1 part"
    tables = {"user_embedding": np.ones((3, 4)), "encoder": {"kernel": np.ones((4, 4))}}
    placed = devices.put_params(tables)
    assert tuple(placed["user_embedding"].sharding.spec) == (None, "model")
    assert tuple(placed["encoder"]["kernel"].sharding.spec) == ()
    with pytest.raises(InputError, match="found 3, expected a divisor of the 1 devices"):
        Devices.all(3)
