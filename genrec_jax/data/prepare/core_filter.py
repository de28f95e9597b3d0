"""Filter interactions to the k-core, number its users and items, and sort its sequences by time.

DuckDB stores the log as a table on disk and counts, joins and sorts it within a memory limit. Only
the result is copied to this process's own memory. Ids are replaced by integer codes in the first
join.

Users and items are numbered 1 … U and 1 … N in the order of md5(seed, id), which reveals nothing
about the interactions. Interactions of a user at the same instant are ordered by another seeded
hash, of the user's and the item's id, and never by their numbers or their lines in the log.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from jaxtyping import Int, UInt64

from genrec_jax.core.errors import InputError
from genrec_jax.data.sequences import SHORTEST_SEQUENCE

log = logging.getLogger(__name__)

FETCHED = 2**20  # rows of the result that are fetched at a time
ROWS_PER_INSERT = 2**20  # rows of the log that are inserted at a time
MICROSECONDS = 1_000_000  # per second


class Step(NamedTuple):
    """The numbers of users, items and interactions that remain after a step of the preparation."""

    step: str  # description, as stored in dataset.json
    users: int | None  # None until the whole log has been read
    items: int | None  # None until the whole log has been read
    interactions: int


class Core(NamedTuple):
    """The k-core: user number u has items[offsets[u - 1]:offsets[u]], oldest first."""

    items: Int[np.ndarray, " interactions"]  # item numbers from 1
    times: Int[np.ndarray, " interactions"]  # Unix seconds
    offsets: Int[np.ndarray, " users_plus_1"]
    user_ids: list[str]  # the log's ids of users 1 … U
    item_ids: list[str]  # the log's ids of items 1 … N
    tied: int  # number of interactions at the same instant as another of the same user


class CoreFilter:
    """The k-core filter: a DuckDB database in a scratch folder, and the counts of its steps.

    Call `load`, `identity` (optional), `encode`, `filter` and `result` in this order, in a `with`
    block.

    Attributes:
        steps: the counts after each step so far.
    """

    def __init__(self, scratch: Path, memory_gb: float):
        """Create the database.

        Args:
            scratch: an empty folder for the database and for data that is spilled to disk.
            memory_gb: DuckDB's memory limit in GiB.
        """
        self.steps: list[Step] = []
        self._db = duckdb.connect(
            str(scratch / "log.duckdb"),
            config={
                "memory_limit": f"{int(memory_gb * 1024)}MiB",
                "temp_directory": str(scratch / "spill"),
                "threads": _cores(),
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        self._db.execute("SET enable_progress_bar = false")

    def __enter__(self) -> "CoreFilter":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def _value(self, query: str) -> int:
        """Return the single integer that a query selects; 0 for NULL."""
        row = self._db.execute(query).fetchone()
        return 0 if row is None or row[0] is None else int(row[0])

    def _count(self, step: str) -> Step:
        """Count the interactions in `pairs` by user and by item, and record them as a step."""
        for what in ("user", "item"):
            self._db.execute(
                f"""CREATE OR REPLACE TABLE {what}_counts AS
                SELECT {what}, count(*) AS n FROM pairs GROUP BY {what}"""
            )
        users = self._value("SELECT count(*) FROM user_counts")
        items = self._value("SELECT count(*) FROM item_counts")
        self.steps.append(Step(step, users, items, self._value("SELECT sum(n) FROM user_counts")))
        return self.steps[-1]

    def load(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Write the log's rows to a table on disk.

        Args:
            batches: rows of user and item (strings) and time (microseconds).
        """
        self._db.execute('CREATE TABLE log ("user" VARCHAR, item VARCHAR, time BIGINT)')
        waiting: list[pa.RecordBatch] = []
        for batch in batches:
            waiting.append(batch)
            if sum(map(len, waiting)) >= ROWS_PER_INSERT:
                self._insert(waiting)
                waiting = []
        self._insert(waiting)

    def _insert(self, batches: list[pa.RecordBatch]) -> None:
        if batches:
            self._db.register("new_rows", pa.Table.from_batches(batches))
            self._db.execute("INSERT INTO log SELECT * FROM new_rows")
            self._db.unregister("new_rows")

    def identity(self) -> str:
        """Return a checksum of the rows that is independent of their order, in 16 hex digits.

        It is the sum of the lower halves of the rows' md5 hashes, modulo 2^64.
        """
        total = self._value(
            """SELECT sum(md5_number_lower(concat_ws(chr(31), "user", item, time))) FROM log"""
        )
        return f"{total % 2**64:016x}"

    def encode(self, duplicates: str) -> None:
        """Replace ids by integer codes, and drop duplicate interactions.

        Args:
            duplicates: exact, first or keep (`config.duplicates`).
        """
        for what in ("user", "item"):
            self._db.execute(
                f'CREATE TABLE {what}s AS SELECT "{what}" AS id, (row_number() OVER ())::INTEGER '
                f'AS code FROM (SELECT DISTINCT "{what}" FROM log)'
            )
        self._db.execute(
            """CREATE TABLE pairs AS SELECT u.code AS user, i.code AS item, time FROM log
               JOIN users u ON log."user" = u.id JOIN items i ON log.item = i.id"""
        )
        self._db.execute("DROP TABLE log")
        self._count("in the log")
        if duplicates == "keep":
            return
        query = {
            "exact": "SELECT DISTINCT user, item, time FROM pairs",
            "first": "SELECT user, item, min(time) AS time FROM pairs GROUP BY user, item",
        }[duplicates]
        self._replace(query)
        self._count(f"without duplicates ({duplicates})")

    def _replace(self, query: str) -> None:
        """Replace the interactions in `pairs` by those that a query selects."""
        self._db.execute(f"CREATE TABLE filtered AS {query}")
        self._db.execute("DROP TABLE pairs")
        self._db.execute("ALTER TABLE filtered RENAME TO pairs")

    def filter(self, user_core: int, item_core: int, rounds: int) -> None:
        """Repeatedly remove all users and items below the core.

        Args:
            user_core: the minimum number of interactions of a user.
            item_core: the minimum number of interactions of an item.
            rounds: the maximum number of rounds; 0: until no user or item is below the core.

        Raises:
            InputError: no interactions remain; the message has the counts after the steps.
        """
        done = 0
        while not rounds or done < rounds:
            below = self._value(
                f"""SELECT (SELECT count(*) FROM user_counts WHERE n < {user_core})
                + (SELECT count(*) FROM item_counts WHERE n < {item_core})"""
            )
            if not below:
                break
            done += 1
            self._replace(
                f"""SELECT * FROM pairs
                SEMI JOIN (SELECT user FROM user_counts WHERE n >= {user_core}) u USING (user)
                SEMI JOIN (SELECT item FROM item_counts WHERE n >= {item_core}) i USING (item)"""
            )
            remaining = self._count(f"core {user_core}/{item_core}, round {done}")
            if not remaining.interactions:
                raise InputError(_empty_core_message(user_core, item_core, self.steps))
        short = f"SELECT user FROM user_counts WHERE n < {SHORTEST_SEQUENCE}"
        if self._value(f"SELECT count(*) FROM ({short})"):  # possible after too few rounds
            self._replace(f"SELECT * FROM pairs ANTI JOIN ({short}) s USING (user)")
            remaining = self._count(f"users with at least {SHORTEST_SEQUENCE}, to be split")
            if not remaining.interactions:
                raise InputError(_empty_core_message(user_core, item_core, self.steps))

    def result(self, seed: int) -> Core:
        """Number the users and items, and sort the interactions by user and time.

        Args:
            seed: seed of the numbering, and of the order of a user's interactions at one instant.
        """
        for what in ("user", "item"):
            self._db.execute(
                f"""CREATE TABLE numbered_{what}s AS SELECT code, id,
                (row_number() OVER (ORDER BY md5(concat('{seed} {what} ', id)), id))::INTEGER
                AS number, md5_number_lower(concat('{seed} tie {what} ', id)) AS tie
                FROM {what}s SEMI JOIN pairs ON pairs.{what} = {what}s.code"""
            )
        ids, ties = {}, {}
        for what in ("user", "item"):
            query = f"SELECT id, tie FROM numbered_{what}s ORDER BY number"
            columns = self._db.sql(query).to_arrow_table()
            ids[what] = columns["id"].to_pylist()
            ties[what] = columns["tie"].to_numpy().astype(np.uint64)
        users, items, times = self._ordered(self.steps[-1].interactions)
        counts = np.bincount(users, minlength=len(ids["user"]) + 1)[1:]
        tied = order_ties(users, items, times, ties["user"], ties["item"])
        return Core(
            items=items,
            times=times // MICROSECONDS,
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            user_ids=ids["user"],
            item_ids=ids["item"],
            tied=tied,
        )

    def _ordered(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the user numbers, item numbers and times of n interactions, by user and time."""
        columns = (np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int64))
        query = """SELECT u.number, i.number, time FROM pairs
                   JOIN numbered_users u ON pairs.user = u.code
                   JOIN numbered_items i ON pairs.item = i.code ORDER BY u.number, time"""
        start = 0
        for batch in self._db.sql(query).to_arrow_reader(FETCHED):
            for column, values in zip(columns, batch.columns, strict=True):
                column[start : start + len(batch)] = values.to_numpy(zero_copy_only=False)
            start += len(batch)
        assert start == n
        return columns


def order_ties(
    users: Int[np.ndarray, " n"],
    items: Int[np.ndarray, " n"],
    times: Int[np.ndarray, " n"],
    user_ties: UInt64[np.ndarray, " U"],
    item_ties: UInt64[np.ndarray, " N"],
) -> int:
    """Sort each user's items at the same instant by a hash, in place.

    Args:
        users: the user number of each interaction, from 1, ascending.
        items: the item number of each interaction, from 1; reordered in place.
        times: the time of each interaction, ascending for each user.
        user_ties: a hash of every user's id.
        item_ties: a hash of every item's id.

    Returns:
        The number of interactions at the same instant as another of the same user.
    """
    same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    keys = combined_hash(user_ties[users[tied] - 1], item_ties[items[tied] - 1])
    order = np.lexsort((items[tied], keys, times[tied], users[tied]))
    items[tied] = items[tied][order]
    return len(tied)


def combined_hash(
    users: UInt64[np.ndarray, " n"], items: UInt64[np.ndarray, " n"]
) -> UInt64[np.ndarray, " n"]:
    """Combine the hashes of users and items element by element with the finalizer of splitmix64."""
    hashes = users ^ ((items << np.uint64(23)) | (items >> np.uint64(41)))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    return hashes ^ (hashes >> np.uint64(31))


def _cores() -> int:
    """Return the number of cores this process may use; all cores if unknown, as on macOS."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _empty_core_message(user_core: int, item_core: int, steps: list[Step]) -> str:
    """Return the error message with the counts of the first and last steps of the filter."""
    shown = [s for s in steps if s.users is not None]
    shown = shown if len(shown) <= 6 else [*shown[:3], *shown[-3:]]
    counts = "; ".join(
        f"{s.step}: {s.users} users, {s.items} items, {s.interactions} interactions" for s in shown
    )
    return (
        f"config.user_core = {user_core}, config.item_core = {item_core}: no interactions remain "
        f"({counts}); lower them, or use a larger log"
    )
