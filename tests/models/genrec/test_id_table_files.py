"""A damaged file of exported id tables is refused with a one-line message."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_id_tables import any_catalogue, ids

from genrec_jax.core.errors import InputError
from genrec_jax.data.identity import DatasetId
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.genrec.id_tables import FILE, id_tables_of, read_id_tables, write_id_tables


def offsets(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


NAN = np.zeros((3, 8), np.float32)
NAN[1, 2] = np.nan


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"item_id_offsets": None}, "missing tensors: item_id_offsets, expected"),
        (
            {"user_embedding": np.zeros((3, 4), np.float32)},
            "user_embedding: found float32 of shape (3, 4), expected float32 of shape (3, 8)",
        ),
        (
            {"user_embedding": np.zeros((3, 8), np.float16)},
            "user_embedding: found float16 of shape (3, 8), expected float32",
        ),
        ({"user_embedding": np.zeros(3, np.float32)}, "of shape (3,), expected float32 of shape"),
        (
            {"user_embedding": np.zeros((2, 8), np.float32)},
            "user_id_offsets: found I64 of shape (4,), expected I64 of shape (3,)",
        ),
        ({"user_numbers": offsets(1, 2)}, "user_numbers: found I64 of shape (2,), expected I64"),
        ({"user_numbers": np.zeros(3)}, "user_numbers: found float64 of shape (3,), expected I64"),
        (
            {"user_id_bytes": np.zeros(6, np.int8)},
            "user_id_bytes: found I8 of shape (6,), expected U8",
        ),
        (
            {"user_id_offsets": offsets(0, 2, 4, 5)},
            "user_id_offsets: found [0, 2, 4] … 5, expected ascending numbers from 0 to 6",
        ),
        ({"user_id_offsets": offsets(0, 4, 2, 6)}, "user_id_offsets: found [0, 4, 2] … 6"),
        ({"user_id_offsets": offsets(-1, 2, 4, 6)}, "user_id_offsets: found [-1, 2, 4] … 6"),
        (
            {"user_id_bytes": np.frombuffer(b"u0u1u\xff", np.uint8)},
            "user_id_bytes: expected ids in UTF-8",
        ),
        (
            {"user_id_bytes": np.frombuffer(b"u0u1u0", np.uint8)},
            "found user 'u0' twice, expected one row per id",
        ),
        (
            {"user_embedding": NAN},
            "user_embedding: found 1 rows with values that are not finite, the first for user 'u1'",
        ),
    ],
)
def test_damaged_files(
    catalogue: Catalogue, change: dict[str, np.ndarray | None], expected: str, tmp_path: Path
) -> None:
    ours = any_catalogue(catalogue, ids("u", range(3)), ids("i", range(3)), DatasetId("a", "b"), 0)
    tables = [np.zeros((3, 8), np.float32)] * 2
    write_id_tables(tmp_path, id_tables_of(ours, *tables))
    assert read_id_tables(tmp_path, 8) is not None
    path = tmp_path / FILE
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    tensors = {**load_file(path), **change}
    save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata=metadata)
    with pytest.raises(InputError) as error:
        read_id_tables(tmp_path, 8)
    assert str(error.value).startswith(f"{path}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_truncated_files_and_wrong_metadata(catalogue: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"short")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        read_id_tables(tmp_path, 8)
    save_file({"x": np.zeros(1)}, path, metadata={"ids": "letters"})
    with pytest.raises(
        InputError, match=r"metadata\.ids: found 'letters', expected 'log' or 'numbers'"
    ):
        read_id_tables(tmp_path, 8)
