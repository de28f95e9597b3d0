"""The ids by which callers name users and items: numbers of a sequence file, or a log's own ids.

A prepared dataset numbers its users and items and stores the log's ids and titles beside them
(`LogMetadata`); a run keeps both too, in Parquet files among its identifiers:

    users.parquet   id string, in the order of the user rows
    items.parquet   id string, title string or null, attributes list<string> or null, text string or
                    null: the item's identifier if it is a title
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from genrec_jax.core.errors import InputError
from genrec_jax.data.prepared import LogMetadata
from genrec_jax.data.sequences import LARGEST_ID

USERS = "users.parquet"
ITEMS = "items.parquet"
LONGEST_SHOWN = 60  # characters of an id in an error message

Id = int | str


class LogIds:
    """The ids of all users, or of all items, by row: all whole numbers or all strings."""

    def __init__(self, what: str, known: Int[np.ndarray, " n"] | list[str]):
        """Index the ids.

        Args:
            what: "user" or "item", for error messages.
            known: the id of each row, all different.
        """
        self.what = what
        self.known = known

    @property
    def are_text(self) -> bool:
        """Whether the ids are strings."""
        return isinstance(self.known, list)

    def take(self, rows: Int[np.ndarray, " m"]) -> pa.Array:
        """Return the ids of some rows, as int64 or string; null for a row of -1."""
        return self._column.take(pa.array(rows, mask=rows < 0))

    def rows(self, ids: Sequence[Any]) -> Int[np.ndarray, " m"]:
        """Return the rows of some ids.

        Raises:
            InputError: an id has the wrong type or is unknown.
        """
        for one in ids:
            self._check_kind(one)
        rows = np.fromiter((self._row_of.get(one, -1) for one in ids), np.int64, len(ids))
        if len(unknown := np.flatnonzero(rows < 0)):
            raise InputError(
                f"{self.what} {_shown(ids[unknown[0]])} is unknown, expected one of the run's "
                f"{len(self.known)} {self.what}s ({self._range()})"
            )
        return rows

    def _check_kind(self, one: Any) -> None:
        if self.are_text:
            if not isinstance(one, str):
                raise InputError(f'found the {self.what} {one!r}, expected a string, as "{one}"')
        elif (
            not isinstance(one, int | np.integer) or isinstance(one, bool) or abs(one) > LARGEST_ID
        ):
            raise InputError(
                f"found the {self.what} {_shown(one)}, expected a whole number up to {LARGEST_ID}"
            )

    def _range(self) -> str:
        if isinstance(self.known, list):
            return f"such as {_shown(self.known[0])}"
        return f"ids {self.known.min()} to {self.known.max()}"

    @cached_property
    def _row_of(self) -> dict[Id, int]:
        ids = self.known if isinstance(self.known, list) else self.known.tolist()
        return {one: row for row, one in enumerate(ids)}

    @cached_property
    def _column(self) -> pa.Array:
        return pa.array(self.known, pa.string() if self.are_text else pa.int64())


def _shown(one: Any) -> str:
    text = repr(one)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def save_log_metadata(folder: Path, metadata: LogMetadata, texts: tuple[str, ...] | None) -> None:
    """Write a log's ids and titles to the folder of a run's identifiers, which must exist.

    Args:
        folder: the folder.
        metadata: the dataset's ids, titles and attributes.
        texts: the items' identifiers if they are titles.
    """
    pq.write_table(pa.table({"id": pa.array(metadata.user_ids, pa.string())}), folder / USERS)
    n = len(metadata.item_ids)
    columns = {
        "id": pa.array(metadata.item_ids, pa.string()),
        "title": pa.array(metadata.titles or [None] * n, pa.string()),
        "attributes": pa.array(metadata.attributes or [None] * n, pa.list_(pa.string())),
        "text": pa.array(texts or [None] * n, pa.string()),
    }
    pq.write_table(pa.table(columns), folder / ITEMS)


def load_log_metadata(folder: Path) -> tuple[LogMetadata | None, tuple[str, ...] | None]:
    """Read what `save_log_metadata` wrote; (None, None) if it wrote nothing.

    Raises:
        InputError: the files are damaged.
    """
    if not (folder / ITEMS).exists() and not (folder / USERS).exists():
        return None, None
    try:
        users, items = pq.read_table(folder / USERS), pq.read_table(folder / ITEMS)
        metadata = LogMetadata(
            user_ids=users["id"].to_pylist(),
            item_ids=items["id"].to_pylist(),
            titles=items["title"].to_pylist(),
            attributes=items["attributes"].to_pylist(),
        )
        texts = items["text"].to_pylist()
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: cannot be read as a run's ids and titles: {error}") from None
    return metadata, None if texts[0] is None else tuple(texts)
