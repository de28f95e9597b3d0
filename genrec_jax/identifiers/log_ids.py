"""External ids of users and items: the numbers of a sequence file, or the ids of a log.

A prepared dataset numbers its users and items, and stores the ids and titles of the log as
`LogMetadata`. A run stores these too, in Parquet files in the folder of its identifiers:

    users.parquet   id string, in the order of the user rows
    items.parquet   id string, title string or null, attributes list<string> or null, text string or
                    null (the item's identifier if identifiers are titles); in the order of the item
                    rows
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
LONGEST_SHOWN = 60  # maximum length of an id in an error message

Id = int | str


class LogIds:
    """A lookup between the rows and the external ids of all users, or of all items.

    Attributes:
        what: "user" or "item", for error messages.
        known: the id of each row; all are whole numbers, or all are strings.
    """

    def __init__(self, what: str, known: Int[np.ndarray, " n"] | list[str]):
        """Store the ids.

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
        """Return the ids of the given rows as int64 or string, null for a row of -1."""
        return self._column.take(pa.array(rows, mask=rows < 0))

    def rows(self, ids: Sequence[Any]) -> Int[np.ndarray, " m"]:
        """Return the rows of the given ids.

        Raises:
            InputError: an id has the wrong type or is unknown.
        """
        for value in ids:
            self._check_type(value)
        rows = np.fromiter((self._row_of.get(value, -1) for value in ids), np.int64, len(ids))
        if len(unknown := np.flatnonzero(rows < 0)):
            raise InputError(
                f"{self.what} {_shown(ids[unknown[0]])} is unknown, expected one of the run's "
                f"{len(self.known)} {self.what}s ({self._range()})"
            )
        return rows

    def _check_type(self, value: Any) -> None:
        if self.are_text:
            if not isinstance(value, str):
                raise InputError(
                    f'found the {self.what} {value!r}, expected a string, as in "{value}"'
                )
        elif (
            not isinstance(value, int | np.integer)
            or isinstance(value, bool)
            or abs(value) > LARGEST_ID
        ):
            raise InputError(
                f"found the {self.what} {_shown(value)}, expected a whole number up to {LARGEST_ID}"
            )

    def _range(self) -> str:
        if isinstance(self.known, list):
            return f"such as {_shown(self.known[0])}"
        return f"ids {self.known.min()} to {self.known.max()}"

    @cached_property
    def _row_of(self) -> dict[Id, int]:
        ids = self.known if isinstance(self.known, list) else self.known.tolist()
        return {value: row for row, value in enumerate(ids)}

    @cached_property
    def _column(self) -> pa.Array:
        return pa.array(self.known, pa.string() if self.are_text else pa.int64())


def _shown(value: Any) -> str:
    """Return the value for an error message, shortened."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def save_log_metadata(folder: Path, metadata: LogMetadata, texts: tuple[str, ...] | None) -> None:
    """Write the ids and titles of a log as users.parquet and items.parquet.

    Args:
        folder: the folder of a run's identifiers, which must exist.
        metadata: the ids, titles and attributes of the log.
        texts: the items' identifiers if they are titles, else None.
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
    """Read the files that `save_log_metadata` wrote.

    Returns:
        The metadata, and the items' identifiers if they are titles; (None, None) if the folder has
        neither file.

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
