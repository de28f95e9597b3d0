"""Read a tensorflow-datasets folder of `genrec` in bulk, like a prepared dataset.

Each file of records is read in one step and parsed with the library's protobuf class. The library's
own decoder converts every row to a dictionary of arrays, which takes ten times as long as all other
steps (`python -m genrec_jax benchmark tfds`).
"""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Int
from tensorflow_datasets.proto import tf_example_pb2

from genrec_jax.core.errors import InputError
from genrec_jax.data.prepared import LogMetadata
from genrec_jax.data.sequences import SHORTEST_SEQUENCE, UserSequences

SPLITS = ("users", "items")
Example: Any = getattr(tf_example_pb2, "Example")  # noqa: B009, defined at import time


def read_tfds(folder: Path) -> UserSequences:
    """Read the sequences of a folder that the builder `genrec` wrote.

    Raises:
        InputError: the folder is not a dataset of `genrec`, or is damaged.
    """
    builder = _builder(folder)
    numbers, lengths, flat = array("q"), array("q"), array("q")
    for feature in _messages(builder, "users", folder):
        items = feature["items"].int64_list.value
        numbers.append(feature["number"].int64_list.value[0])
        lengths.append(len(items))
        flat.extend(items)
    n_items = _size(builder, "items")
    order = _order(np.array(numbers, np.int64), "users", folder)
    items = np.array(flat, np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))])
    shortest = np.diff(offsets).min() if len(numbers) else 0
    if shortest < SHORTEST_SEQUENCE:
        raise InputError(
            f"{folder}: found {len(numbers)} users with {shortest} or more items, expected users "
            f"with at least {SHORTEST_SEQUENCE}"
        )
    if items.min() < 1 or items.max() > n_items:
        raise InputError(
            f"{folder}: found item numbers {items.min()} to {items.max()}, expected 1 to {n_items}"
        )
    items, offsets = _reordered(items, offsets, order)
    return UserSequences(
        name=_dataset_name(builder),
        items=(items - 1).astype(np.int32),
        offsets=offsets,
        user_ids=np.arange(1, len(numbers) + 1),
        item_ids=np.arange(1, n_items + 1),
    )


def read_tfds_log_metadata(folder: Path) -> LogMetadata | None:
    """Read the log's own ids, and the titles and attributes of items; None if it has only numbers.

    Raises:
        InputError: the folder is not a dataset of `genrec`, or is damaged.
    """
    builder = _builder(folder)
    users, items = [], []
    for feature in _messages(builder, "users", folder):
        users.append((feature["number"].int64_list.value[0], _texts(feature, "id")[0]))
    for feature in _messages(builder, "items", folder):
        texts = (_texts(feature, "title")[0], _texts(feature, "attributes"))
        number = feature["number"].int64_list.value[0]
        items.append((number, _texts(feature, "id")[0], *texts))
    for split, rows in (("users", users), ("items", items)):
        _order(np.array([row[0] for row in rows]), split, folder)
    users.sort()
    items.sort(key=lambda row: row[0])
    if not any(log_id for _, log_id in users):
        return None
    return LogMetadata(
        user_ids=[log_id for _, log_id in users],
        item_ids=[row[1] for row in items],
        titles=[row[2] or None for row in items],
        attributes=[row[3] or None for row in items],
    )


def _builder(folder: Path) -> Any:
    """Open a folder with the library, and check that the builder `genrec` wrote it."""
    try:
        builder: Any = tfds.builder_from_directory(folder)
        splits = builder.info.splits
        _dataset_name(builder)
        if set(splits) != set(SPLITS):
            raise ValueError(f"found splits {sorted(splits)}, expected {sorted(SPLITS)}")
        if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            raise ValueError(f"found {builder.info.file_format}, expected array_record")
    except Exception as error:  # the library raises various exceptions for a damaged folder
        raise InputError(f"{folder}: cannot be read as a dataset of `genrec`: {error}") from None
    return builder


def _dataset_name(builder: Any) -> str:
    return str(builder.info.metadata["dataset"])


def _size(builder: Any, split: str) -> int:
    return builder.info.splits[split].num_examples


def _messages(builder: Any, split: str, folder: Path) -> Iterator[Any]:
    """Yield the protobuf features of every row of a split, in the order of the files."""
    n = 0
    for path in builder.info.splits[split].filepaths:
        try:
            reader = ArrayRecordReader(str(path))
            try:
                records = reader.read_all()
            finally:
                reader.close()
            for record in records:
                yield Example.FromString(record).features.feature
        except (OSError, RuntimeError, ValueError, IndexError, KeyError) as error:
            raise InputError(f"{path}: cannot be read as array_record: {error}") from None
        except Exception as error:
            if type(error).__name__ != "DecodeError":  # protobuf's, whose module varies
                raise
            raise InputError(f"{path}: found a damaged record: {error}") from None
        n += len(records)
    if n != _size(builder, split):
        raise InputError(
            f"{folder}: found {n} rows of {split}, expected {_size(builder, split)} as in "
            "dataset_info.json"
        )


def _texts(feature: Any, name: str) -> list[str]:
    return [value.decode("utf-8") for value in feature[name].bytes_list.value]


def _order(numbers: Int[np.ndarray, " n"], split: str, folder: Path) -> Int[np.ndarray, " n"]:
    """Return the row of each number 1 … n, and check that each occurs once."""
    order = np.argsort(numbers, kind="stable")
    if not np.array_equal(numbers[order], np.arange(1, len(numbers) + 1)):
        raise InputError(
            f"{folder}: found missing or repeated numbers of {split}, expected each of 1 to "
            f"{len(numbers)} once"
        )
    return order


def _reordered(
    items: Int[np.ndarray, " n"], offsets: Int[np.ndarray, " U1"], order: Int[np.ndarray, " U"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " U1"]]:
    """Return ragged rows in the given order; Beam may have written them in any other."""
    if np.array_equal(order, np.arange(len(order))):
        return items, offsets
    lengths = np.diff(offsets)[order]
    after = np.concatenate([[0], np.cumsum(lengths)])
    index = np.arange(len(items)) + np.repeat(offsets[:-1][order] - after[:-1], lengths)
    return items[index], after
