"""The id tables in a file of their own, beside a BART that knows nothing of them.

Six tensors, U users and N items:

    user_embedding  [U, D] float32   the user id table         user_ids      [U] int64
    item_embedding  [N, D] float32   the item id table         item_ids      [N] int64
                                                               user_numbers  [U] int64
                                                               item_numbers  [N] int64

Row r of a table belongs to the user or item that the dataset calls ids[r] and that a sentence
writes with numbers[r]: `item_` + str(item_numbers[r]).
"""

import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genrec_jax.errors import InputError
from genrec_jax.identifiers.catalogue import Catalogue

log = logging.getLogger(__name__)

FILE = "genrec_ids.safetensors"
TABLES = ("user_embedding", "item_embedding")


def write_id_tables(
    folder: Path,
    catalogue: Catalogue,
    users: Float[np.ndarray, "U D"],
    items: Float[np.ndarray, "N D"],
) -> None:
    tensors = {"user_embedding": users, "item_embedding": items, **_rows_of(catalogue)}
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def read_id_tables(
    folder: Path, catalogue: Catalogue, width: int
) -> dict[str, Float[np.ndarray, "rows D"]] | None:
    """The two tables, by their names; None where the folder has none for this catalogue.

    Args:
        folder: a checkpoint, perhaps one that export.py wrote.
        catalogue: whose users and items must be those of the tables, in the same order and
            written with the same numbers.
        width: D.

    Raises:
        InputError: the file is damaged, or its tables have another shape.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from None
    rows = _rows_of(catalogue)
    missing = sorted({*TABLES, *rows} - saved.keys())
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}")
    differing = [name for name, ours in rows.items() if not np.array_equal(ours, saved[name])]
    if differing:
        log.warning(
            "WARNING: %s belongs to another catalogue (%s differ from this run's): both id tables "
            "start at random",
            path,
            ", ".join(differing),
        )
        return None
    for name, ids in zip(TABLES, ("user_ids", "item_ids"), strict=True):
        expected = (len(rows[ids]), width)
        if saved[name].shape != expected or saved[name].dtype != np.float32:
            raise InputError(
                f"{path}: {name} is {saved[name].dtype} of shape {saved[name].shape}, expected "
                f"float32 of shape {expected}"
            )
    return {name: saved[name] for name in TABLES}


def _rows_of(catalogue: Catalogue) -> dict[str, Int[np.ndarray, " rows"]]:
    """Which user and item each row belongs to, and the number it is written with."""
    arrays = {
        "user_ids": catalogue.user_ids,
        "item_ids": catalogue.item_ids,
        "user_numbers": catalogue.indexing.user_numbers,
        "item_numbers": catalogue.indexing.item_numbers,
    }
    return {name: np.ascontiguousarray(array, np.int64) for name, array in arrays.items()}
