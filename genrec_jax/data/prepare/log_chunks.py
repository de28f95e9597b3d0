"""What the readers of log files share: chunks of rows, lines that hold none, packed files."""

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

BLOCK = 2**24  # bytes of a text file at a time
ROWS = 2**16  # of the other formats at a time
SHOWN = 60  # characters of what a message quotes
WIDTH = "another number of columns"
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
FAULTS = (pa.ArrowException, OSError, EOFError, ValueError)

Values = pa.Array | list[Any]


class Chunk(NamedTuple):
    """Some rows of a file: the columns asked for, and where a row stands, as ', line 17'."""

    columns: list[Values]
    where: Callable[[int], str]


@dataclass
class Dropped:
    """Lines that hold no row, left out because the config says so, by what was wrong."""

    allowed: bool
    counts: Counter[str]

    def refuse(self, reason: str, message: str) -> None:
        """Count the line, or raise InputError with the message."""
        if not self.allowed:
            raise InputError(message)
        self.counts[reason] += 1


def quoted(found: object) -> str:
    """What a message quotes, on one line and not too long."""
    text = repr(found)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def delimiter(config: FileConfig) -> str:
    return "\t" if config.delimiter in ("tab", "\\t") else config.delimiter


def short(error: object) -> str:
    return " ".join(str(error).split())[:200]


class Unpacked(io.RawIOBase):
    """A file's bytes, unpacked, up to the end of its last whole line.

    What comes after that is in `tail` once all has been read; with `whole` it is handed out too.
    """

    def __init__(self, path: Path, whole: bool = False):
        with path.open("rb") as file:
            start = file.read(4)
        packing = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
        self._stream = pa.input_stream(str(path), compression=packing, buffer_size=2**20)
        self._whole = whole
        self._ready = memoryview(b"")  # whole lines
        self.lines = 0  # whole ones so far
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
        given = self._ready[: len(buffer)]
        buffer[: len(given)] = given
        self._ready = self._ready[len(given) :]
        return len(given)

    def close(self) -> None:
        self._stream.close()
        super().close()

    def check_end(self, path: Path, dropped: Dropped) -> None:
        """Refuse what follows the last whole line."""
        if self.tail:
            dropped.refuse(
                "the file ends in mid-line",
                f"{path}, line {self.lines + 1}: the file ends in mid-line, in "
                f"{quoted(self.tail)}; if it is whole, add a newline, and otherwise get it anew",
            )


def places_of(path: Path, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Where each column stands among the file's."""
    twice = [name for name, count in Counter(header).items() if count > 1 and name in columns]
    if twice:
        raise InputError(f"{path}: has {header.count(twice[0])} columns {twice[0]!r}, expected one")
    for name in columns:
        if name not in header:
            near = difflib.get_close_matches(name, header, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            there = ", ".join(quoted(column) for column in header[:20])
            raise InputError(f"{path}: has no column {name!r}, found {there}{hint}")
    return [list(header).index(name) for name in columns]


def named_columns(config: FileConfig) -> list[str]:
    return [name.strip() for name in config.columns.split(",")] if config.columns else []


def _chunk(rows: list[Sequence[Any]], numbers: list[int]) -> Chunk:
    return Chunk([list(column) for column in zip(*rows, strict=True)], _numbered(numbers))


def _numbered(numbers: list[int]) -> Callable[[int], str]:
    return lambda row: f", line {numbers[row]}"


def gather(rows: Iterator[tuple[int, Sequence[Any]]]) -> Iterator[Chunk]:
    """Chunks of (line, fields)."""
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
