"""Read and write a prepared dataset: a folder of four files, from which runs are trained.

    dataset.json        the record: format, name, the config that made it, counts of every step,
                        sizes, and the sha256 of the three files below
    sequences.parquet   user int32 (1 … U), items list<int32> (numbers 1 … N, oldest first),
                        times list<int64> (Unix seconds)
    users.parquet       user int32 (1 … U), id string: the log's own id
    items.parquet       item int32 (1 … N), id string: the log's own id, title string or null,
                        attributes list<string> or null

The log's ids may contain any characters; models use the numbers. The bytes of the files depend on
the content alone.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from genrec_jax.core.errors import InputError
from genrec_jax.data.sequences import SHORTEST_SEQUENCE, UserSequences

FORMAT_VERSION = 1
RECORD = "dataset.json"
SEQUENCES = "sequences.parquet"
USERS = "users.parquet"
ITEMS = "items.parquet"
TABLES = (SEQUENCES, USERS, ITEMS)

USERS_PER_BLOCK = 65_536  # users per row group, so that list offsets fit into 32 bits
HASH_BLOCK = 2**24  # bytes that are hashed at a time

SEQUENCES_SCHEMA = pa.schema(
    {"user": pa.int32(), "items": pa.list_(pa.int32()), "times": pa.list_(pa.int64())}
)
USERS_SCHEMA = pa.schema({"user": pa.int32(), "id": pa.string()})
ITEMS_SCHEMA = pa.schema(
    {
        "item": pa.int32(),
        "id": pa.string(),
        "title": pa.string(),
        "attributes": pa.list_(pa.string()),
    }
)


@dataclass(frozen=True)
class Prepared:
    """The content to write: user row u has items[offsets[u]:offsets[u + 1]], oldest first.

    Ids, titles and attributes are aligned with users 1 … U and items 1 … N. Titles and attributes
    may be () if there are none.
    """

    items: Int[np.ndarray, " interactions"]  # item numbers from 1
    times: Int[np.ndarray, " interactions"]  # Unix seconds
    offsets: Int[np.ndarray, " users_plus_1"]
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    titles: Sequence[str | None] = ()
    attributes: Sequence[Sequence[str] | None] = ()


@dataclass(frozen=True)
class LogMetadata:
    """The log's own ids, titles and attributes, by the user and item rows of UserSequences."""

    user_ids: list[str]
    item_ids: list[str]
    titles: list[str | None]
    attributes: list[list[str] | None] = field(default_factory=list)

    @property
    def has_titles(self) -> bool:
        """Whether any item has a title."""
        return any(title is not None for title in self.titles)


def is_prepared(folder: Path) -> bool:
    """Return whether a folder has the record of a prepared dataset."""
    return (folder / RECORD).is_file()


def write_prepared(
    folder: Path, name: str, prepared: Prepared, record: Mapping[str, Any] | None = None
) -> None:
    """Write the four files of a prepared dataset.

    Args:
        folder: the folder, which must exist.
        name: the dataset's name.
        prepared: the sequences, ids, titles and attributes.
        record: additional entries of dataset.json (the config, the counts), as JSON values.
    """
    _write_sequences(folder / SEQUENCES, prepared)
    n_users, n_items = len(prepared.user_ids), len(prepared.item_ids)
    users = {"user": np.arange(1, n_users + 1, dtype=np.int32), "id": prepared.user_ids}
    _write_table(folder / USERS, pa.table(users, USERS_SCHEMA))
    items = {
        "item": np.arange(1, n_items + 1, dtype=np.int32),
        "id": prepared.item_ids,
        "title": prepared.titles or [None] * n_items,
        "attributes": prepared.attributes or [None] * n_items,
    }
    _write_table(folder / ITEMS, pa.table(items, ITEMS_SCHEMA))
    content = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "users": n_users,
        "items": n_items,
        "interactions": len(prepared.items),
        **(record or {}),
        "files": {file: _fingerprint(folder / file) for file in TABLES},
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")


def _write_sequences(path: Path, prepared: Prepared) -> None:
    """Write sequences.parquet in blocks of users, to bound the memory for copies of the arrays."""
    n_users = len(prepared.user_ids)
    with pq.ParquetWriter(path, SEQUENCES_SCHEMA, compression="zstd") as writer:
        for start in range(0, n_users, USERS_PER_BLOCK):
            bounds = prepared.offsets[start : start + USERS_PER_BLOCK + 1]
            block = slice(int(bounds[0]), int(bounds[-1]))
            offsets = pa.array(bounds - bounds[0], pa.int32())
            columns = [
                pa.array(np.arange(start + 1, start + len(bounds), dtype=np.int32)),
                pa.ListArray.from_arrays(offsets, pa.array(prepared.items[block], pa.int32())),
                pa.ListArray.from_arrays(offsets, pa.array(prepared.times[block], pa.int64())),
            ]
            writer.write_batch(pa.record_batch(columns, schema=SEQUENCES_SCHEMA))


def _write_table(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd", row_group_size=USERS_PER_BLOCK)


def _fingerprint(path: Path) -> dict[str, Any]:
    """Return the size and the sha256 of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def read_record(folder: Path) -> dict[str, Any]:
    """Read dataset.json, and verify the checksums of the other files.

    Raises:
        InputError: a file is missing, was changed, or has another format.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version, files = record["format_version"], record["files"]
        expected = {file: files[file] for file in TABLES}
        sizes = [record[key] for key in ("users", "items", "interactions")]
        if not all(type(size) is int for size in sizes) or type(record["name"]) is not str:
            raise TypeError("users, items, interactions: expected integers, name: a string")
    except FileNotFoundError:
        raise InputError(f"{folder}: found no {RECORD}, expected a prepared dataset") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as a dataset's record: {error!r}") from None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: found format_version {version!r}, expected {FORMAT_VERSION}; prepare the "
            "dataset again"
        )
    for file, fingerprint in expected.items():
        try:
            found = _fingerprint(folder / file)
        except OSError as error:
            raise InputError(f"{folder / file}: cannot be read: {error}") from None
        if found != fingerprint:
            raise InputError(
                f"{folder / file}: found {found['bytes']} bytes with sha256 "
                f"{found['sha256'][:12]}…, expected {fingerprint['bytes']} bytes with sha256 "
                f"{fingerprint['sha256'][:12]}… as in {RECORD}; prepare the dataset again"
            )
    return record


def read_prepared(folder: Path) -> UserSequences:
    """Read the sequences of a prepared folder, with `user_ids` 1 … U and `item_ids` 1 … N.

    Raises:
        InputError: a file is missing, was changed, has another format, or has other sizes than
            dataset.json states.
    """
    record = read_record(folder)
    n_users, n_items, n = record["users"], record["items"], record["interactions"]
    path = folder / SEQUENCES
    items = np.empty(n, dtype=np.int32)
    lengths = np.empty(n_users, dtype=np.int64)
    users_done = items_done = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(USERS_PER_BLOCK, columns=["items"]):
                sequences = batch.column(0)
                counts = sequences.value_lengths().to_numpy(zero_copy_only=False)
                values = sequences.flatten().to_numpy(zero_copy_only=False)
                lengths[users_done : users_done + len(counts)] = counts
                items[items_done : items_done + len(values)] = values
                users_done, items_done = users_done + len(counts), items_done + len(values)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as a dataset's sequences: {error}") from None
    fits = users_done == n_users and items_done == n
    if not fits or n_users == 0 or lengths.min() < SHORTEST_SEQUENCE:
        raise InputError(
            f"{path}: found {users_done} users with {items_done} interactions, expected {n_users} "
            f"users with {n} interactions and at least {SHORTEST_SEQUENCE} per user"
        )
    if items.min() < 1 or items.max() > n_items:
        raise InputError(
            f"{path}: found item numbers {items.min()} to {items.max()}, expected 1 to {n_items}"
        )
    items -= 1
    return UserSequences(
        name=record["name"],
        items=items,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        user_ids=np.arange(1, n_users + 1),
        item_ids=np.arange(1, n_items + 1),
    )


def read_log_metadata(folder: Path) -> LogMetadata:
    """Read the log's own ids, and the titles and attributes of the items.

    Raises:
        InputError: a file is missing, was changed, or has another format, other columns or another
            number of rows.
    """
    record = read_record(folder)
    try:
        users = pq.read_table(folder / USERS, schema=USERS_SCHEMA)
        items = pq.read_table(folder / ITEMS, schema=ITEMS_SCHEMA)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: cannot be read as a dataset's ids: {error}") from None
    for file, table, n in ((USERS, users, record["users"]), (ITEMS, items, record["items"])):
        if len(table) != n:
            raise InputError(f"{folder / file}: found {len(table)} rows, expected {n}")
    return LogMetadata(
        user_ids=users["id"].to_pylist(),
        item_ids=items["id"].to_pylist(),
        titles=items["title"].to_pylist(),
        attributes=items["attributes"].to_pylist(),
    )
