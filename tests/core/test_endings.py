"""Commands on a full, read-only or missing disk end with code 74 and one line with the path."""

import errno
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import duckdb
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python import array_record_module
from disks import FILLER, disk, fill, make_read_only
from repository import ROOT
from safetensors.numpy import save_file
from sweeping import ABLATION, file
from test_main import CONFIG, SMALL_MODEL, command
from titled import write_titled
from tokenizers import Tokenizer, models

from genrec_jax.cli import ensemble, export, report, sweep, to_tfds
from genrec_jax.cli import prepare as prepare_command
from genrec_jax.cli.jax_setup import report_unless_abandoned
from genrec_jax.core.disk import disk_fault, writing
from genrec_jax.core.endings import ending, run_command
from genrec_jax.core.errors import DiskError, InputError
from genrec_jax.data import datasets
from genrec_jax.data.prepare import prepare
from genrec_jax.decoding.predictions import MARKER, check_writable
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.genrec import hub
from genrec_jax.runs.run_folder import MetricsWriter, RunFolder
from genrec_jax.sweeps.search import StudyFile

FULL = "No space left on device"
READ_ONLY = "Read-only file system"
NUMBERS = np.random.default_rng(0).random(50_000)  # cannot be compressed

# ------------------------------------------------------------------------------ the libraries


def _duckdb(path: Path) -> None:
    with duckdb.connect(str(path)) as database:
        database.register("numbers", pa.table({"a": NUMBERS}))
        database.execute("CREATE TABLE kept AS SELECT * FROM numbers")


def _array_record(path: Path) -> None:
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for _ in range(300):
        writer.write(NUMBERS[:500].tobytes())
    writer.close()


def _tokenizers(path: Path) -> None:
    Tokenizer(models.WordLevel({f"w{n}": n for n in range(20_000)}, "w0")).save(str(path))


WRITERS: dict[str, Callable[[Path], object]] = {
    "Python": lambda path: path.write_bytes(NUMBERS.tobytes()),
    "NumPy": lambda path: np.savez(path, a=NUMBERS),
    "pyarrow": lambda path: pq.write_table(pa.table({"a": NUMBERS}), path),
    "DuckDB": _duckdb,
    "safetensors": lambda path: save_file({"a": NUMBERS}, path),
    "tokenizers": _tokenizers,
    "array_record": _array_record,
}


@pytest.mark.parametrize("library", WRITERS)
def test_the_exceptions_of_libraries_are_recognised_as_disk_faults(
    library: str, tmp_path: Path
) -> None:
    with disk(tmp_path / "disk", "100k") as folder:
        for message in (FULL, READ_ONLY):
            with pytest.raises(Exception) as raised:  # noqa: PT011, of any type
                WRITERS[library](folder / "file")
            assert (disk_fault(raised.value) or "").startswith(message)
            expected = f"mine cannot be written: {message}"
            with pytest.raises(DiskError, match=expected), writing("mine"):
                raise raised.value
            make_read_only(folder)


def test_other_errors_are_not_disk_faults() -> None:
    for error in (ValueError("found 3, expected 2"), OSError("no route to host"), KeyError("x")):
        assert disk_fault(error) is None
        assert ending(error) is None
    with pytest.raises(KeyError), writing("mine"):
        raise KeyError("x")
    with pytest.raises(InputError, match=r"^a line$"), writing("mine"):
        raise InputError("a line")


def test_the_exit_code_and_message_of_each_ending() -> None:
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
    code, line = ending(full) or (0, "")
    assert code == 2
    assert line.startswith("error: out of device memory (RESOURCE_EXHAUSTED: Out of memory")
    denied = PermissionError(errno.EACCES, "", "some/file")
    assert ending(denied) == (74, "error: disk error: Permission denied (some/file)")
    assert ending(InputError("x")) == (2, "error: x")
    assert ending(DiskError("x")) == (74, "error: x")
    assert ending(KeyboardInterrupt(), "cut") == (130, "cut")


def test_an_internal_error_ends_in_a_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


# ------------------------------------------------------------------------------ the commands


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, in a folder with the inputs of the other commands."""
    folder = tmp_path_factory.mktemp("endings")
    assert command(CONFIG, f"--workdir={folder / 'run'}", *SMALL_MODEL) == 0
    lines = (f"u{user},i{(user + 7 * at) % 40},{at}\n" for user in range(200) for at in range(9))
    (folder / "log.csv").write_text("user,item,time\n" + "".join(lines))
    write_titled(folder / "prepared")
    file(folder, ABLATION)
    return folder / "run"


def _prepare(run: Path, folder: Path) -> int:
    config = f"--config={ROOT / 'configs' / 'prepare.py'}"
    log = f"--config.log.file={run.parent / 'log.csv'}"
    return prepare_command.main(["prepare", config, log, f"--output={folder / 'out'}"])


def _to_tfds(run: Path, folder: Path) -> int:
    return to_tfds.main(
        ["to-tfds", f"--source={run.parent / 'prepared'}", f"--output={folder / 'out'}"]
    )


def _report(run: Path, folder: Path) -> int:
    return report.main(["report", str(run), f"--output={folder / 'out.html'}"])


def _export(run: Path, folder: Path) -> int:
    return export.main(["export", f"--workdir={run}", f"--output={folder / 'out'}"])


def _recommend(run: Path, folder: Path) -> int:
    output = f"--output={folder / 'out.parquet'}"
    return command("--mode=recommend", f"--workdir={run}", output)


def _sweep(run: Path, folder: Path) -> int:
    path = run.parent / "mine.py"
    return sweep.main(["sweep", CONFIG, f"--sweep={path}", f"--workdir={folder / 'out'}"])


COMMANDS = {
    "prepare": _prepare,
    "to_tfds": _to_tfds,
    "report": _report,
    "export": _export,
    "recommend": _recommend,
    "sweep": _sweep,
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk(tmp_path / "disk", "1m") as folder:
        yield folder


def the_line(capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """Return the one line on standard error, which names the path that cannot be written."""
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1, errors
    assert errors.startswith("error: ")
    assert f"{folder}/out" in errors
    assert " cannot be written: " in errors
    return errors


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_disk(
    name: str, run: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_read_only(small_disk)
    capsys.readouterr()
    assert COMMANDS[name](run, small_disk) == 74
    assert READ_ONLY in the_line(capsys, small_disk)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_where_a_folder_should_be(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Needs no permission to mount."""
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    assert COMMANDS[name](run, tmp_path / "file") == 74
    the_line(capsys, tmp_path / "file")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "sweep"])
def test_a_full_disk_and_then_one_with_space(
    name: str, run: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full from the start, or later, so that each time another file does not fit."""
    for free in (0, 4096, 12_288, 40_960):
        fill(small_disk, free)
        capsys.readouterr()
        code = COMMANDS[name](run, small_disk)
        if code == 0:
            assert free > 0
            return  # the command needs no more space
        assert code == 74
        assert FULL in the_line(capsys, small_disk)
        (small_disk / FILLER).unlink()
        left = {path.name for path in small_disk.iterdir()}
        # Only a folder of drafts, or a folder of the library's settings, may be left.
        assert left <= {"out.parquet.parts", *(["out"] if name == "to_tfds" else [])}
        assert not list(small_disk.rglob("dataset_info.json"))
    assert COMMANDS[name](run, small_disk) == 0


def test_a_full_disk_while_a_run_is_evaluated_and_combined(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with disk(tmp_path / "disk", "20m") as folder:
        copy = Path(shutil.copytree(run, folder / "out"))
        fill(folder, 0)
        capsys.readouterr()
        assert command("--mode=evaluate", f"--workdir={copy}") == 74
        assert FULL in the_line(capsys, folder)
        assert ensemble.main(["ensemble", f"--workdir={copy}"]) == 74
        assert FULL in the_line(capsys, folder)


def test_no_space_for_the_data_that_duckdb_spills(
    run: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DuckDB reports too little memory, because it cannot spill to the full disk."""

    def spill(config: object, name: str, scratch: Path) -> None:
        settings = {"memory_limit": "8MiB", "temp_directory": str(scratch / "spill"), "threads": 1}
        with duckdb.connect(":memory:", config=settings) as database:
            database.execute("CREATE TABLE a AS SELECT random() AS x FROM range(3000000)")
            database.execute("CREATE TABLE b AS SELECT * FROM a ORDER BY x")

    monkeypatch.setattr(prepare, "_prepare_in", spill)
    fill(small_disk, 40_960)
    assert _prepare(run, small_disk) == 74
    assert FULL in the_line(capsys, small_disk)


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "RUN"],
        [],
        ["prepare", "--help"],
        ["benchmark"],
        ["export", "--workdir=RUN", "--output=OUT"],
    ],
    ids=" ".join,
)
def test_a_full_standard_output(arguments: list[str], run: Path, tmp_path: Path) -> None:
    arguments = [one.replace("RUN", str(run)).replace("OUT", str(tmp_path)) for one in arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "genrec_jax", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == 74, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert FULL in done.stderr


# ------------------------------------------------------------------------------ other writes


def test_a_full_cache_is_not_a_failed_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    for variable in ("GENREC_DATA_DIR", "GENREC_BART_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GENREC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("pooch.retrieve", full)
    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(DiskError, match=f"{tmp_path}/Beauty.txt cannot be written: {FULL}"):
        datasets.load_named("beauty")
    with pytest.raises(DiskError, match=f"cannot be written: {FULL}"):
        hub.checkpoint_folder("facebook/bart-base")


def test_no_space_for_the_first_files_of_a_run(catalogue: Catalogue, small_disk: Path) -> None:
    folder = RunFolder(small_disk)
    fill(small_disk, 0)
    with pytest.raises(DiskError, match=f"{folder.identifiers} cannot be written: {FULL}"):
        catalogue.save(folder.identifiers)
    writer = MetricsWriter(folder)
    with pytest.raises(DiskError, match=f"metrics.jsonl cannot be written: {FULL}"):
        writer.write(1, "finetune", {"loss": 1.0})
    with pytest.raises(DiskError, match=f"results.json cannot be written: {FULL}"):
        folder.write_results({"metrics": {}})
    assert not list(small_disk.glob("results.json*"))
    (small_disk / FILLER).unlink()
    writer.close()


def test_a_ranking_interrupted_before_its_marker_starts_over(tmp_path: Path) -> None:
    output = tmp_path / "lists.parquet"
    parts = tmp_path / "lists.parquet.parts"
    parts.mkdir()
    (parts / f"{MARKER}.part").write_text("{")
    check_writable(output, "--output")
    (parts / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="found other files"):
        check_writable(output, "--output")


def test_no_partial_line_remains_in_the_file_of_a_study(tmp_path: Path) -> None:
    study = StudyFile(tmp_path / "study.log")
    study.append_logs([{"op": 0}])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15, limits[1]))
    try:
        with pytest.raises(DiskError, match=r"study\.log cannot be written: File too large"):
            study.append_logs([{"op": 1, "name": "long"}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    study.append_logs([{"op": 2}])
    assert list(study.read_logs(0)) == [{"op": 0}, {"op": 2}]


def test_only_abandoned_writes_are_not_reported() -> None:
    """tensorstore reports these errors from C++ after a checkpoint did not fit on the disk."""
    reported: list[SimpleNamespace] = []
    for text in ("Event loop is closed", "another"):
        unraisable = SimpleNamespace(exc_value=RuntimeError(text))
        report_unless_abandoned(reported.append, unraisable)
    assert [str(one.exc_value) for one in reported] == ["another"]
