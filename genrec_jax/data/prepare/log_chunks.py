"""Common parts of the log readers: chunks of rows, dropped lines and compressed files."""

import difflib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from genrec_jax.core.errors import InputError
from genrec_jax.data.prepare.config import FileConfig

BLOCK = 2**24  # bytes of a text file that are read at a time
ROWS = 2**16  # rows of other formats that are read at a time
SHOWN = 60  # characters of a value that is quoted in a message
WIDTH = "another number of columns"  # a reason for dropping a line
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
# Errors of damaged or badly encoded files.
FAULTS = (pa.ArrowException, OSError, EOFError, ValueError)

Values = pa.Array | list[Any]


class Chunk(NamedTuple):
    """Consecutive rows of a file."""

    columns: list[Values]  # the requested columns, in the requested order
    where: Callable[[int], str]  # row of the chunk → its position in the file: ', line 17'


@dataclass
class Dropped:
    """The number of dropped lines by reason."""

    allowed: bool  # whether config.on_bad_line is drop
    counts: Counter[str]  # reason → number of lines

    def refuse(self, reason: str, message: str) -> None:
        """Count a dropped line; raise InputError with the message if lines may not be dropped."""
        if not self.allowed:
            raise InputError(message)
        self.counts[reason] += 1


def quoted(found: object) -> str:
    """Return the repr of a value, shortened for a message."""
    text = repr(found)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def delimiter(config: FileConfig) -> str:
    """Return the delimiter of a CSV file, in which `tab` means a tab."""
    return "\t" if config.delimiter in ("tab", "\\t") else config.delimiter


def short(error: object) -> str:
    """Return an error's message on one line, shortened to 200 characters."""
    return " ".join(str(error).split())[:200]


class Unpacked(io.RawIOBase):
    """A stream of the decompressed bytes of a file, up to the end of its last complete line.

    Attributes:
        lines: the number of complete lines so far.
        tail: the bytes after the last complete line, once all bytes have been read.
    """

    def __init__(self, path: Path, whole: bool = False):
        """Open a file.

        Args:
            path: a plain file, or one compressed with gzip or zstd.
            whole: whether to return the bytes after the last complete line too.
        """
        with path.open("rb") as file:
            start = file.read(4)
        codec = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
        self._stream = pa.input_stream(str(path), compression=codec, buffer_size=2**20)
        self._whole = whole
        self._ready = memoryview(b"")  # complete lines that have not been returned
        self.lines = 0
        self.tail = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            content = self._stream.read(BLOCK)
            if self._whole or not content:
                self._ready = memoryview(content)
                break
            end = content.rfind(b"\n") + 1
            if end:
                self.lines += content.count(b"\n")
                self._ready, self.tail = memoryview(self.tail + content[:end]), content[end:]
            else:
                self.tail += content
        returned = self._ready[: len(buffer)]
        buffer[: len(returned)] = returned
        self._ready = self._ready[len(returned) :]
        return len(returned)

    def close(self) -> None:
        self._stream.close()
        super().close()

    def check_end(self, path: Path, dropped: Dropped) -> None:
        """Refuse or drop the bytes after the last complete line."""
        if self.tail:
            dropped.refuse(
                "the file ends in mid-line",
                f"{path}, line {self.lines + 1}: found {quoted(self.tail)} without a newline, "
                "expected a complete line; add a newline if the file is complete, otherwise "
                "get a complete copy",
            )


def column_indices(path: Path, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Return the index of each column in the header.

    Raises:
        InputError: a column is missing or occurs several times.
    """
    repeated = [name for name, count in Counter(header).items() if count > 1 and name in columns]
    if repeated:
        raise InputError(
            f"{path}: found {header.count(repeated[0])} columns {repeated[0]!r}, expected one"
        )
    for name in columns:
        if name not in header:
            near = difflib.get_close_matches(name, header, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            existing = ", ".join(quoted(column) for column in header[:20])
            raise InputError(f"{path}: found the columns {existing}, expected {name!r}{hint}")
    return [list(header).index(name) for name in columns]


def named_columns(config: FileConfig) -> list[str]:
    """Return the column names in the config; [] if the file has a header line."""
    return [name.strip() for name in config.columns.split(",")] if config.columns else []


def _chunk(rows: list[Sequence[Any]], numbers: list[int]) -> Chunk:
    return Chunk([list(column) for column in zip(*rows, strict=True)], _numbered(numbers))


def _numbered(numbers: list[int]) -> Callable[[int], str]:
    return lambda row: f", line {numbers[row]}"


def gather(rows: Iterator[tuple[int, Sequence[Any]]]) -> Iterator[Chunk]:
    """Group (line, fields) into chunks of ROWS rows."""
    gathered: list[Sequence[Any]] = []
    numbers: list[int] = []
    for number, fields in rows:
        gathered.append(fields)
        numbers.append(number)
        if len(gathered) == ROWS:
            yield _chunk(gathered, numbers)
            gathered, numbers = [], []
    if gathered:
        yield _chunk(gathered, numbers)
