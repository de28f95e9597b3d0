"""Read the interactions of a log, and check them chunk by chunk.

Ids are strings in all rows or whole numbers in all rows. They are used literally: nothing is
stripped, lowercased or unescaped. A row without user, item or time is an error that names its file
and line, or is dropped and counted if `config.on_bad_line` is `drop`.
"""

import glob
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from genrec_jax.core.errors import InputError
from genrec_jax.data.prepare.config import FileConfig, PrepareConfig
from genrec_jax.data.prepare.log_chunks import Chunk, Dropped, Values, quoted
from genrec_jax.data.prepare.log_files import read_chunks
from genrec_jax.data.prepare.times import POSITIONS, Clock, MixedTimes, parse_instant

log = logging.getLogger(__name__)
pc: Any = pyarrow.compute  # its functions are defined at import time, unknown to type checkers

SECONDS_BETWEEN_LINES = 20.0  # between progress lines in the log
TIME_TYPES = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_null),
    *(pa.types.is_timestamp, pa.types.is_date),
)
ROW_SCHEMA = pa.schema({"user": pa.string(), "item": pa.string(), "time": pa.int64()})


class Ids:
    """Convert columns of ids to strings, and check that all ids have the same type."""

    def __init__(self, what: str):
        """Start without a type.

        Args:
            what: "user" or "item", for error messages.
        """
        self.what = what
        self.kind = ""  # "text" or "a whole number"; "" before the first id

    def texts(self, values: Values, path: Path, chunk: Chunk) -> pa.Array:
        """Convert a column of ids to strings, null where an id is missing.

        Args:
            values: the column.
            path: the file, for error messages.
            chunk: the chunk of the column, for the lines in error messages.

        Raises:
            InputError: an id has an unsupported type, or another type than earlier ids.
        """
        if isinstance(values, list):
            return self._from_objects(values, path, chunk)
        column: Any = _decoded(values)
        kind: Any = column.type
        if pa.types.is_integer(kind):
            self._check_kind("a whole number", path, chunk, 0, kind)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            self._check_kind("text", path, chunk, 0, kind)
        elif not pa.types.is_null(kind):
            raise InputError(
                f"{path}: found a column of {kind} for the {self.what}'s id, expected text or "
                "whole numbers"
            )
        return column.cast(pa.string())

    def _from_objects(self, values: list[Any], path: Path, chunk: Chunk) -> pa.Array:
        """Convert ids from JSON, checking the type of every value."""
        for kind in set(map(type, values)) - {type(None)}:
            row = next(row for row, value in enumerate(values) if type(value) is kind)
            name = {str: "text", int: "a whole number"}.get(kind)
            if name is None:
                raise InputError(
                    f"{path}{chunk.where(row)}: found {quoted(values[row])} as the {self.what}'s "
                    "id, expected text or a whole number"
                )
            self._check_kind(name, path, chunk, row, quoted(values[row]))
        if self.kind == "a whole number":
            values = [None if value is None else str(value) for value in values]
        return pa.array(values, pa.string())

    def _check_kind(self, kind: str, path: Path, chunk: Chunk, row: int, found: object) -> None:
        """Check that the type is the same as before; the first type is stored."""
        if self.kind not in ("", kind):
            raise InputError(
                f"{path}{chunk.where(row)}: found {found} as the {self.what}'s id, expected "
                f"{self.kind} as in the other rows"
            )
        self.kind = kind


def _decoded(column: Any) -> Any:
    """Return a column without dictionary encoding."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


@dataclass
class Reading:
    """The progress of reading a log: counts, and the types of ids and times found so far."""

    dropped: Dropped  # counts of dropped lines
    clock: Clock  # parser of the times
    rows: int = 0  # complete rows, inside and outside the time window
    outside: int = 0  # complete rows outside the time window
    first: int | None = None  # earliest time in the window, in microseconds
    last: int | None = None  # latest time in the window, in microseconds
    # The checks of user ids and of item ids.
    ids: tuple[Ids, Ids] = field(default_factory=lambda: (Ids("user"), Ids("item")))


def start_reading(config: PrepareConfig) -> Reading:
    """Return the state of reading before the first row."""
    return Reading(
        Dropped(config.on_bad_line == "drop", Counter()),
        Clock(POSITIONS if config.log.format == "sequences" else config.log.time_unit),
    )


def input_files(file: FileConfig, key: str) -> list[Path]:
    """Return the files that match a pattern, sorted by name.

    Args:
        file: the config with the file or pattern.
        key: the config key of the pattern, for error messages.

    Raises:
        InputError: no file matches.
    """
    path = Path(file.file).expanduser()
    found = [path] if path.is_file() else [Path(name) for name in glob.glob(str(path))]
    found = sorted(path for path in found if path.is_file())
    if not found:
        if path.is_dir():
            raise InputError(f"{key}: found the folder {file.file}, expected a file or a pattern")
        raise InputError(f"{key}: found {file.file}, which does not exist, expected a file")
    return found


def read_interactions(config: PrepareConfig, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Yield batches of `user`, `item` (strings) and `time` (microseconds) in the time window.

    Args:
        config: the config of the preparation.
        reading: the state of reading, which is updated.

    Raises:
        InputError: a file cannot be read, ids or times have several types, or, unless
            `config.on_bad_line` is `drop`, a row has no user, no item or no valid time.
    """
    source = config.log
    window = [parse_instant(getattr(source, key), key) for key in ("since", "until")]
    columns = (source.user, source.item, source.time)
    started = logged = time.monotonic()
    for path in input_files(source, "config.log.file"):
        for chunk in read_chunks(path, source, columns, reading.dropped):
            batch = _checked(path, chunk, columns, reading)
            reading.rows += len(batch)
            inside = _inside(batch, window)
            reading.outside += len(batch) - len(inside)
            _update_times(inside, reading)
            yield inside
            if time.monotonic() - logged > SECONDS_BETWEEN_LINES:
                logged = time.monotonic()
                rate = reading.rows / (logged - started)
                log.info("%s: read %s rows, %s rows/s", path.name, f"{reading.rows:,}", int(rate))


def _checked(path: Path, chunk: Chunk, columns: Sequence[str], reading: Reading) -> pa.RecordBatch:
    """Return the complete rows of a chunk, and refuse or count those without user, item or time."""
    users, items = (
        ids.texts(values, path, chunk)
        for ids, values in zip(reading.ids, chunk.columns[:2], strict=True)
    )
    raw = _plain_times(path, chunk)
    try:
        times = reading.clock.microseconds(raw)
    except MixedTimes as error:
        raise InputError(f"{path}{chunk.where(error.row)}: {error}") from None
    complete = pa.array([True] * len(users))
    for what, column, missing in zip(
        ("user", "item", "time"),
        columns,
        (_is_empty(users), _is_empty(items), pc.is_null(times)),
        strict=True,
    ):
        first = pc.index(missing, True).as_py()
        if first < 0:
            continue
        unparsable = what == "time" and raw[first].is_valid
        found = f"found time {quoted(raw[first].as_py())}" if unparsable else f"found no {what}"
        expected = reading.clock.described if unparsable else f"one in the column {column!r}"
        if not reading.dropped.allowed:
            raise InputError(f"{path}{chunk.where(first)}: {found}, expected {expected}")
        reading.dropped.counts[f"no {what}"] += pc.sum(pc.and_(complete, missing)).as_py() or 0
        complete = pc.and_(complete, pc.invert(missing))
    batch = pa.record_batch([users, items, times], schema=ROW_SCHEMA)
    return batch if pc.all(complete, min_count=0).as_py() else batch.filter(complete)


def _plain_times(path: Path, chunk: Chunk) -> pa.Array:
    """Return the time column as an Arrow array of one type."""
    values = chunk.columns[2]
    if not isinstance(values, list):
        column: Any = _decoded(values)
        if pa.types.is_large_string(column.type):
            column = column.cast(pa.string())
        if not any(is_type(column.type) for is_type in TIME_TYPES):
            raise InputError(
                f"{path}: found a time column of {column.type}, expected numbers, text, timestamps "
                "or dates"
            )
        return column
    types = set(map(type, values)) - {type(None)}
    for allowed, kind in (
        ({int}, pa.int64()),
        ({str}, pa.string()),
        ({int, float}, pa.float64()),
    ):
        if types <= allowed:
            try:
                return pa.array(values, kind)
            except (pa.ArrowInvalid, OverflowError):
                break
    row = next((r for r, v in enumerate(values) if type(v) not in (int, str)), 0)
    row = next((r for r, v in enumerate(values) if type(v) is not type(values[0])), row)
    raise InputError(
        f"{path}{chunk.where(row)}: found time {quoted(values[row])}, expected a number or text, "
        "the same type in all rows"
    )


def _is_empty(ids: pa.Array) -> pa.Array:
    """Return whether each id is missing or blank."""
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(ids), ""), True)


def _inside(batch: pa.RecordBatch, window: Sequence[int | None]) -> pa.RecordBatch:
    """Return the rows in the time window, whose ends are included."""
    since, until = window
    times = batch.column(2)
    if since is not None:
        batch = batch.filter(pc.greater_equal(times, since))
    if until is not None:
        batch = batch.filter(pc.less_equal(batch.column(2), until))
    return batch


def _update_times(batch: pa.RecordBatch, reading: Reading) -> None:
    """Update the earliest and the latest time."""
    if not len(batch):
        return
    ends = pc.min_max(batch.column(2)).as_py()
    reading.first = min(ends["min"], ends["min"] if reading.first is None else reading.first)
    reading.last = max(ends["max"], ends["max"] if reading.last is None else reading.last)
