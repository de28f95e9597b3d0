"""What a disk, a clock, other data and a second process do to a run: the message and the code."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from disks import disk, mount
from test_main import CONFIG, SMALL_MODEL, command
from tiny_run import arrays, checkpoints, lines, run

from genrec_jax.core.file_lock import locked
from genrec_jax.runs import identifiers

TEXT = "\n".join(
    f"{user} {' '.join(str(1 + (user + step * (1 + user % 3)) % 40) for step in range(6))}"
    for user in range(1, 61)
)
ARGUMENTS = [CONFIG, *SMALL_MODEL, "--config.data.name=file", "--config.checkpoint_every_steps=3"]


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, data.txt, and a run that was cut short of its test result."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "data.txt").write_text(TEXT + "\n")
    assert train(folder) == 0
    (folder / "run" / "results.json").unlink()
    return folder


@pytest.fixture
def copy(cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same to be spoilt. Its dataset has the path that the run knows."""
    folder = Path(shutil.copytree(cut, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    return folder


def train(folder: Path, *changes: str) -> int:
    with contextlib.chdir(folder):
        return command(*ARGUMENTS, "--config.data.file=data.txt", "--workdir=run", *changes)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1, errors
    return errors


def content(folder: Path) -> dict[str, bytes]:
    """Of all files but the log."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "log.txt")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --------------------------------------------------------------------------------- other data


def test_a_dataset_that_is_gone(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "data.txt").unlink()
    before = content(copy / "run")
    assert train(copy) == 2
    assert "config.data.file: found nothing at data.txt" in told(capsys)
    assert content(copy / "run") == before


def test_another_dataset_of_the_same_users_and_items(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [line.split() for line in TEXT.splitlines()]
    rows[0][1], rows[0][2] = rows[0][2], rows[0][1]
    (copy / "data.txt").write_text("".join(" ".join(row) + "\n" for row in rows))
    before = content(copy / "run")
    assert train(copy) == 2
    line = told(capsys)
    assert "--workdir=run: the run was trained on other data (dataset: found sha256 " in line
    assert "tokenizer" not in line
    assert content(copy / "run") == before
    assert command("--mode=evaluate", "--workdir=run") == 2
    assert "the run was trained on other data (dataset: found" in told(capsys)


def test_another_tokenizer(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = identifiers.train_tokenizer
    monkeypatch.setattr(
        identifiers,
        "train_tokenizer",
        lambda names, size, *rest, **more: ours(names, size - 5, *rest, **more),
    )
    assert train(copy) == 2
    line = told(capsys)
    assert "(tokenizer: found sha256 " in line
    assert "token table: found" in line
    assert "dataset" not in line


# ------------------------------------------------------------------------------ damaged files


def test_the_checkpoint_before_a_damaged_one_is_used_and_said(
    copy: Path, cut: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = checkpoints(copy / "run")
    newest = copy / "run" / "checkpoints" / str(there[-1])
    path = max((newest / "params").rglob("*"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    before = capsys.readouterr()
    assert train(copy) == 0, before
    output = capsys.readouterr().out
    assert f"the checkpoint of step {there[-1]} is damaged and was quarantined" in output
    assert str(path.relative_to(copy)) in output
    assert f"resuming from the checkpoint of step {there[-2]}" in output
    assert "is damaged" in (copy / "run" / "log.txt").read_text()
    assert lines(copy / "run") == lines(cut / "run")
    expected = arrays(cut / "run", there[-1])
    for name, array in arrays(copy / "run", there[-1]).items():
        assert array.tobytes() == expected[name].tobytes()


def test_no_checkpoint_is_whole(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in checkpoints(copy / "run"):
        (copy / "run" / "checkpoints" / str(step) / "checkpoint.json").write_text("{")
    assert train(copy) == 2
    assert "found only damaged checkpoints" in told(capsys)


# -------------------------------------------------------------------------------------- disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk(tmp_path / "disk", "500k") as folder:
        yield folder


@pytest.mark.slow
def test_a_full_disk(
    small_disk: Path, cut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_disk / "data.txt").write_text(TEXT + "\n")
    assert run_in(small_disk, tmp_path)[0] == 74
    code, _, errors = run_in(small_disk, tmp_path)
    assert code == 74
    assert errors.count("\n") == 1, errors
    assert "No space left on device" in errors
    mount(small_disk, "-o", "remount,size=100m")
    there = checkpoints(small_disk / "run")
    code, output, errors = run_in(small_disk, tmp_path)
    assert code == 0, errors
    if there:
        assert f"resuming from the checkpoint of step {there[-1]}" in output
    assert lines(small_disk / "run") == lines(cut / "run")


def run_in(folder: Path, cache: Path, **options: str) -> tuple[int, str, str]:
    """A process of its own that trains on the folder's data."""
    changes = ["--mode=train", *ARGUMENTS, f"--config.data.file={folder / 'data.txt'}"]
    return run(folder / "run", cache, *changes, **options)


def test_a_file_that_may_not_grow(cut: Path, tmp_path: Path) -> None:
    """As a quota would have it; needs no right to mount."""
    (tmp_path / "data.txt").write_text(TEXT + "\n")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    code, _, errors = run_in(tmp_path, tmp_path / "cache", code=limit)
    assert code == 74, errors
    *others, line = errors.splitlines()
    assert "File too large" in line
    assert line.startswith("error: ")
    assert not any("Traceback" in other for other in others), errors  # jax warns of its cache


def test_a_folder_that_cannot_be_written(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(copy)
    if os.geteuid() == 0:  # whom rights do not bind
        mount(copy, "--bind", str(copy))
        mount(copy, "-o", "remount,ro,bind")
    else:
        (copy / "run").chmod(0o500)
    try:
        assert train(copy) == 74
        line = told(capsys)
        assert "error: --workdir=run cannot be written: " in line
        assert content(copy) == before
    finally:
        if os.geteuid() == 0:
            os.chdir("/")
            subprocess.run(["umount", copy], check=True)
        else:
            (copy / "run").chmod(0o700)


# -------------------------------------------------------------------------------------- clock


def test_a_clock_that_goes_backwards(
    tmp_path: Path, cut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.txt").write_text(TEXT + "\n")
    seconds = itertools.count(int(time.time()), -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
    assert train(tmp_path) == 0
    assert lines(tmp_path / "run") == lines(cut / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert all(0 < value < 600 for value in results["seconds"].values())
    rates = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '_per_second": -' not in rates


# ------------------------------------------------------------------------- training that diverges


def test_a_loss_that_is_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.txt").write_text(TEXT + "\n")
    huge = ("--config.finetune.learning_rate=1e38", "--config.finetune.warmup=0.5")
    assert train(tmp_path, *huge) == 3
    line = told(capsys)
    assert "error: finetune step " in line
    assert "gradient norm " in line
    assert "; its batch contains the users " in line
    assert "and 44 more; the last good checkpoint is at step " in line
    for step in checkpoints(tmp_path / "run"):
        for name, array in arrays(tmp_path / "run", step).items():
            assert jax.numpy.isfinite(array).all(), name
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


# ---------------------------------------------------------------------------------- two at once


def test_a_second_process_in_the_folder(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(copy / "run")
    with locked(copy / "run" / "run.lock", "first"):
        assert train(copy) == 2
        line = told(capsys)
    assert f"--workdir=run: in use by another process (pid {os.getpid()} on " in line
    assert content(copy / "run") == before
    output = copy / "lists.parquet"
    with locked(copy / "lists.parquet.lock", "first"):
        assert command("--mode=recommend", "--workdir=run", f"--output={output}") == 2
        assert f"{output}: in use by another process (pid " in told(capsys)
    assert not output.exists()


def test_a_run_without_its_folder_made(tmp_path: Path) -> None:
    """Killed between the lock and the config: the same command may have the folder."""
    (tmp_path / "data.txt").write_text(TEXT + "\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").write_text("pid 1 on nowhere\n")
    (tmp_path / "run" / "config.json.part").write_text("{")
    assert train(tmp_path) == 0
