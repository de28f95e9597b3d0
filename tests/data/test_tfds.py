"""The tensorflow-datasets builder: the same data without TensorFlow; damage is reported."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from repository import ROOT
from titled import write_titled

from genrec_jax.cli.to_tfds import main
from genrec_jax.core.errors import InputError
from genrec_jax.data import tfds_builder
from genrec_jax.data.datasets import load_named, named_datasets
from genrec_jax.data.prepared import LogMetadata, read_log_metadata, read_prepared
from genrec_jax.data.sequences import UserSequences
from genrec_jax.data.tfds_export import build
from genrec_jax.data.tfds_reader import read_tfds, read_tfds_log_metadata
from genrec_jax.models.run_config import DataConfig
from genrec_jax.runs.dataset import load_log_metadata, load_sequences


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_titled(tmp_path_factory.mktemp("prepared") / "titled")


@pytest.fixture(scope="module")
def folder(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(str(prepared), tmp_path_factory.mktemp("tfds"))


def assert_same(found: UserSequences, expected: UserSequences) -> None:
    assert found.name == expected.name
    for name in ("items", "offsets", "user_ids", "item_ids"):
        values, expected_values = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(values, expected_values)
        assert values.dtype == expected_values.dtype, name


def without_empty_titles(metadata: LogMetadata) -> LogMetadata:
    """Replace empty titles by None, since tensorflow-datasets does not distinguish them."""
    return dataclasses.replace(metadata, titles=[title or None for title in metadata.titles])


def test_a_prepared_folder_is_the_same_dataset(folder: Path, prepared: Path) -> None:
    assert_same(read_tfds(folder), read_prepared(prepared))
    assert read_tfds_log_metadata(folder) == without_empty_titles(read_log_metadata(prepared))


def test_training_reads_the_folder(folder: Path, prepared: Path) -> None:
    found, expected = (DataConfig(name="file", file=str(path)) for path in (folder, prepared))
    assert_same(load_sequences(found), load_sequences(expected))
    assert load_log_metadata(found) == without_empty_titles(read_log_metadata(prepared))


def test_the_library_reads_a_row_per_user_and_per_item(folder: Path, prepared: Path) -> None:
    builder = tfds.builder_from_directory(folder)
    expected, metadata = read_prepared(prepared), read_log_metadata(prepared)
    users, items = (builder.as_data_source(split) for split in ("users", "items"))
    assert (len(users), len(items)) == (expected.n_users, expected.n_items)
    for row in (0, 1, 57, 119):
        assert users[row]["number"] == row + 1
        assert users[row]["id"].decode() == metadata.user_ids[row]
        np.testing.assert_array_equal(users[row]["items"], expected.of(row) + 1)
        assert len(users[row]["times"]) == len(users[row]["items"])
        assert users[row]["title"] == b""
    for row in (0, 10, 11, 12, 199):
        assert items[row]["id"].decode() == metadata.item_ids[row]
        assert items[row]["title"].decode() == (metadata.titles[row] or "")
        assert [text.decode() for text in items[row]["attributes"]] == (
            metadata.attributes[row] or []
        )
        assert len(items[row]["items"]) == 0
    assert set(builder.info.features) == {"number", "id", "items", "times", "title", "attributes"}
    assert str(builder.info.version) == "1.0.0"


def test_the_library_builds_a_named_dataset(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_DATA_DIR", str(data_dir))
    builder = tfds.builder("genrec/beauty", data_dir=str(tmp_path), file_format="array_record")
    assert "zhou2020s3rec" in builder.info.citation
    assert "S3-Rec" in str(builder.info.redistribution_info.license)
    assert builder.info.homepage.startswith("https://github.com/RUCAIBox")
    builder.download_and_prepare()
    found = Path(builder.data_dir)
    assert_same(read_tfds(found), load_named("beauty", str(data_dir)))
    assert read_tfds_log_metadata(found) is None  # a named dataset has only numbers


def test_all_named_datasets_have_a_config() -> None:
    assert set(tfds_builder.Genrec.builder_configs) == set(named_datasets())


def test_tensorflow_is_not_imported(prepared: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "import tensorflow_datasets as tfds\n"
        "from genrec_jax.data.tfds_reader import read_tfds\n"
        "from genrec_jax.data.tfds_export import build\n"
        f"folder = build({str(prepared)!r}, {str(tmp_path)!r})\n"
        "assert read_tfds(folder).n_users == 120\n"
        "assert tfds.builder_from_directory(folder).as_data_source('users')[0]['number'] == 1\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert 'jax' not in sys.modules\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert process.returncode == 0, process.stderr


def test_the_main_modules_do_not_import_the_library() -> None:
    script = (
        "import sys\nimport genrec_jax.main\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "assert 'array_record' not in sys.modules\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert process.returncode == 0, process.stderr


def test_another_preparation_is_another_dataset(prepared: Path, tmp_path: Path) -> None:
    other = write_titled(tmp_path / "titled", n_users=121)
    first, second = (tfds_builder.prepared_config(folder).name for folder in (prepared, other))
    assert first != second
    assert first.startswith("titled-")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in folder.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    return copied


def test_rows_in_any_order_are_the_same_dataset(
    folder: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genrec_jax.data import tfds_reader

    def shuffled(*arguments: object) -> list:
        rows = list(messages(*arguments))
        return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]

    messages = tfds_reader._messages
    monkeypatch.setattr(tfds_reader, "_messages", shuffled)
    assert_same(read_tfds(folder), read_prepared(prepared))
    assert read_tfds_log_metadata(folder) == without_empty_titles(read_log_metadata(prepared))


def test_damaged_folders_are_refused(copy: Path, tmp_path: Path) -> None:
    shard = next(copy.glob("genrec-users*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"genrec-users.*array_record"):
        read_tfds(copy)
    start = next(start for start in range(256, len(whole)) if all(whole[start : start + 64]))
    flipped = bytes(255 - byte for byte in whole[start : start + 64])
    shard.write_bytes(whole[:start] + flipped + whole[start + 64 :])
    with pytest.raises(InputError):
        read_tfds(copy)
    shard.unlink()
    with pytest.raises(InputError, match=r"genrec-users|cannot be read as a dataset"):
        read_tfds(copy)
    shard.write_bytes(whole)
    info = json.loads((copy / "dataset_info.json").read_text())
    (copy / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as a dataset of `genrec`"):
        read_tfds(copy)
    users = next(split for split in info["splits"] if split["name"] == "users")
    users["shardLengths"] = ["121"]
    (copy / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="found 120 rows of users, expected 121"):
        read_tfds(copy)
    (copy / "metadata.json").unlink()
    with pytest.raises(InputError, match="cannot be read as a dataset of `genrec`"):
        read_tfds(copy)
    with pytest.raises(InputError, match="cannot be read as a dataset of `genrec`"):
        read_tfds_log_metadata(tmp_path)


def test_the_command(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["to-tfds", f"--source={prepared}", f"--output={tmp_path}"]) == 0
    printed = Path(capsys.readouterr().out.splitlines()[-1])
    assert_same(read_tfds(printed), read_prepared(prepared))
    assert main(["to-tfds", f"--source={tmp_path}", f"--output={tmp_path}"]) == 2
    assert "expected beauty, sports, yelp, or a folder" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from Beam's older protobuf
def test_beam_writes_the_same_dataset(prepared: Path, tmp_path: Path) -> None:
    """Needs the extra [beam]; uses Beam's local runner."""
    pytest.importorskip("apache_beam")
    found = build(str(prepared), tmp_path, beam=True)
    assert_same(read_tfds(found), read_prepared(prepared))
    assert read_tfds_log_metadata(found) == without_empty_titles(read_log_metadata(prepared))
