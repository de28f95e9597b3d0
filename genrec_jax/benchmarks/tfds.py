"""Measure how fast tensorflow-datasets folders are written and read.

    python -m genrec_jax benchmark tfds

A prepared dataset with 9 items per user on average is written as a folder of `genrec`. It is read
in bulk, as in training, by the library's decoder, and from the prepared folder.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from genrec_jax.cli.command import Command
from genrec_jax.core.flags import Flag
from genrec_jax.data.prepared import Prepared, read_prepared, write_prepared
from genrec_jax.data.tfds_export import build
from genrec_jax.data.tfds_reader import read_tfds

DECODED = 20_000  # users for which the library's decoder is timed


def make_prepared(folder: Path, n_users: int) -> None:
    """Write a random prepared dataset."""
    rng = np.random.default_rng(0)
    n_items = max(n_users // 5, 10)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(5, 14, n_users))])
    items = rng.integers(1, n_items + 1, offsets[-1]).astype(np.int32)
    prepared = Prepared(
        items=items,
        times=np.arange(offsets[-1]),
        offsets=offsets,
        user_ids=[f"A{user:013d}" for user in range(n_users)],
        item_ids=[f"B{item:09d}" for item in range(n_items)],
        titles=[f"Title of the item {item}" for item in range(n_items)],
    )
    folder.mkdir()
    write_prepared(folder, "timed", prepared)


def timed(what: str, n_users: int, act: Callable[[], Any]) -> Any:
    """Run a function and print its time."""
    started = time.perf_counter()
    result = act()
    seconds = time.perf_counter() - started
    print(f"{what:40} {seconds:8.2f} s {n_users / seconds:12,.0f} users/s")
    return result


def run(args: SimpleNamespace) -> None:
    n = args.users
    tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        prepared = Path(name) / "prepared"
        make_prepared(prepared, n)
        folder = timed("written", n, lambda: build(str(prepared), Path(name) / "tfds"))
        timed("read in bulk", n, lambda: read_tfds(folder))
        builder: Any = tfds.builder_from_directory(folder)
        rows = builder.as_data_source("users")
        some = list(range(min(n, DECODED)))
        timed("read by the library's decoder", len(some), lambda: rows.__getitems__(some))
        timed("read from the prepared folder", n, lambda: read_prepared(prepared))


main = Command(
    "benchmark tfds",
    "[--users=N]",
    __doc__ or "",
    run,
    (Flag("users", "The number of users in the dataset.", int, 200_000, least=1),),
)
