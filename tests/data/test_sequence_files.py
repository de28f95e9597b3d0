"""Reading sequence files in bulk gives the results and the errors of reading line by line."""

import random
from pathlib import Path

import numpy as np
import pytest

from genrec_jax.core.errors import InputError
from genrec_jax.data import sequences
from genrec_jax.data.sequences import UserSequences, read_sequence_file

GOOD = "7 3 3 9\n2 9 1 2147483647 5 4\n1  3\t9 3\n"


def outcome(path: Path) -> UserSequences | str:
    try:
        return read_sequence_file(path, "file")
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(8))
def test_bulk_reading_matches_reading_line_by_line(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    path = tmp_path / "drawn.txt"
    outcomes = set()
    for _ in range(60):
        text = GOOD.rstrip("\n") if draw.random() < 0.2 else GOOD
        for _ in range(draw.randint(0, 2)):
            index = draw.randrange(len(text))
            text = (
                text[:index]
                + draw.choice(["", " ", "\n", "0", "x", "\r\n", "99", "é"])
                + text[index + 1 :]
            )
        path.write_text(text)
        found = outcome(path)
        with monkeypatch.context() as patch:
            patch.setattr(sequences, "_read_in_bulk", lambda *_: None)
            expected = outcome(path)
        outcomes.add(type(found))
        if isinstance(found, str):
            assert found == expected
            continue
        assert isinstance(expected, UserSequences)
        for field in ("items", "offsets", "user_ids", "item_ids"):
            np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
            assert getattr(found, field).dtype == getattr(expected, field).dtype
    assert outcomes == {str, UserSequences}


def test_the_bulk_reader_reads_valid_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "_read_line_by_line", None)
    for text in (GOOD, GOOD.replace("\n", "\r\n"), GOOD[:-1]):
        (tmp_path / "file.txt").write_bytes(text.encode())
        found = read_sequence_file(tmp_path / "file.txt", "file")
        assert found.user_ids.tolist() == [7, 2, 1]
        assert found.item_ids[found.of(1)].tolist() == [9, 1, 2147483647, 5, 4]
