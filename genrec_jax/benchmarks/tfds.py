"""How fast tensorflow-datasets folders are written and read: python -m genrec_jax benchmark tfds

A prepared dataset of so many users, 9 items each on average, is written as a folder of `genrec`
and read again, in bulk as training does, by the library's own decoder, and as it was prepared.
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

DECODED = 20_000  # users that the library's decoder is timed on


def make_prepared(folder: Path, n_users: int) -> None:
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
        timed("read as it was prepared", n, lambda: read_prepared(prepared))


main = Command(
    "benchmark tfds",
    "[--users=N]",
    __doc__ or "",
    run,
    (Flag("users", "Users in the dataset.", int, 200_000, least=1),),
)
