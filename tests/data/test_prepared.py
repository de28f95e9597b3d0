"""A prepared dataset on disk: it is read as it was written, and damage is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from genrec_jax.core.errors import InputError
from genrec_jax.data import prepared
from genrec_jax.data.prepared import (
    ITEMS,
    RECORD,
    SEQUENCES,
    USERS,
    Prepared,
    is_prepared,
    read_log_metadata,
    read_prepared,
    write_prepared,
)


def small() -> Prepared:
    return Prepared(
        items=np.array([1, 2, 3, 3, 3, 2, 1]),
        times=np.arange(7),
        offsets=np.array([0, 3, 7]),
        user_ids=["a b", "ü\n"],
        item_ids=["x", "y" * 300, "0"],
        titles=["A title", None, "<b>"],
        attributes=[["one", "two"], None, []],
    )


@pytest.mark.parametrize("block", [1, 65_536])
def test_a_dataset_is_read_as_it_was_written(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "USERS_PER_BLOCK", block)
    assert not is_prepared(tmp_path)
    write_prepared(tmp_path, "small", small(), {"config": {"seed": 3}})
    assert is_prepared(tmp_path)
    sequences = read_prepared(tmp_path)
    assert sequences.name == "small"
    assert sequences.items.tolist() == [0, 1, 2, 2, 2, 1, 0]
    assert sequences.offsets.tolist() == [0, 3, 7]
    assert sequences.user_ids.tolist() == [1, 2]
    assert sequences.item_ids.tolist() == [1, 2, 3]
    metadata = read_log_metadata(tmp_path)
    assert metadata.user_ids == ["a b", "ü\n"]
    assert metadata.item_ids == ["x", "y" * 300, "0"]
    assert metadata.titles == ["A title", None, "<b>"]
    assert metadata.attributes == [["one", "two"], None, []]
    assert metadata.has_titles
    assert json.loads((tmp_path / RECORD).read_text())["config"] == {"seed": 3}


@pytest.mark.parametrize("file", [SEQUENCES, USERS, ITEMS])
def test_a_damaged_file_is_refused(file: str, tmp_path: Path) -> None:
    write_prepared(tmp_path, "small", small())
    content = (tmp_path / file).read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (bytes(flipped), content[:-7], b""):
        (tmp_path / file).write_bytes(damaged)
        for read in (read_prepared, read_log_metadata):
            with pytest.raises(InputError, match=f"{file}: found .* bytes with sha256"):
                read(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match=f"{file}: cannot be read"):
        read_prepared(tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("", "cannot be read as a dataset's record"),
        ("[]", "cannot be read as a dataset's record"),
        ('{"format_version": 2}', "cannot be read as a dataset's record"),
        ({"format_version": 2}, "found format_version 2, expected 1"),
        ({"users": "2"}, "expected integers"),
        ({"users": 3}, "found 2 users with 7 interactions, expected 3 users with 7"),
        ({"interactions": 6}, "cannot be read as a dataset's sequences"),
        ({"items": 2}, "found item numbers 1 to 3, expected 1 to 2"),
    ],
)
def test_an_invalid_record_is_refused(record: str | dict, message: str, tmp_path: Path) -> None:
    write_prepared(tmp_path, "small", small())
    if isinstance(record, dict):
        record = json.dumps(json.loads((tmp_path / RECORD).read_text()) | record)
    (tmp_path / RECORD).write_text(record)
    with pytest.raises(InputError, match=message):
        read_prepared(tmp_path)
