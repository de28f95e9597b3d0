"""The rows of a log's file, some columns of them, in chunks: what is in memory is one chunk.

    csv           one character between fields, quotes as in RFC 4180 (pyarrow's reader); a longer
                  delimiter, as MovieLens' `::`, splits lines and knows no quotes
    jsonl         a JSON object a line (orjson)
    loose_jsonl   the same, or a Python literal a line: Amazon's files of 2014
    parquet
    sequences     `user item item …` a line, oldest first: a row for every item

Text may be packed with gzip or zstd. Lines that hold nothing at all are no rows. A text file must
end with the end of a line (JSON: with a whole object), since one that was cut may otherwise end in
a shorter, wrong number.
"""

import ast
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
import pyarrow.parquet as pq

from genrec_jax.core.errors import InputError
from genrec_jax.data.prepare.config import FileConfig
from genrec_jax.data.prepare.csv_files import read_csv
from genrec_jax.data.prepare.log_chunks import (
    FAULTS,
    ROWS,
    WIDTH,
    Chunk,
    Dropped,
    Unpacked,
    delimiter,
    gather,
    named_columns,
    places_of,
    quoted,
    short,
)


def read_chunks(
    path: Path, config: FileConfig, columns: Sequence[str], dropped: Dropped
) -> Iterator[Chunk]:
    """The `columns` of a file, in this order; those of a JSON object that are missing are None.

    Raises:
        InputError: a file that cannot be read, a missing column, or a line that holds no row.
    """
    readers = {"parquet": _parquet, "csv": read_csv, "sequences": _sequences}
    reader = readers.get(config.format, _json)
    if config.format == "csv" and len(delimiter(config)) > 1:
        reader = _split_lines
    try:
        yield from reader(path, config, columns, dropped)
    except InputError:
        raise
    except FAULTS as error:
        raise InputError(f"{path}: cannot be read as {config.format}: {short(error)}") from None


# ---- lines -----------------------------------------------------------------------------------


def _lines(raw: Unpacked) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of every line that holds something."""
    for number, line in enumerate(io.BufferedReader(cast(Any, raw), 2**20), start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, line


def _decoded(path: Path, number: int, line: bytes, encoding: str) -> str:
    try:
        return line.decode(encoding).rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError(
            f"{path}, line {number}: found {quoted(line)}, expected text in {encoding}"
        ) from None


def _split_lines(
    path: Path, config: FileConfig, columns: Sequence[str], dropped: Dropped
) -> Iterator[Chunk]:
    """Fields between a delimiter of several characters."""
    with Unpacked(path) as raw:
        lines = _lines(raw)
        header = named_columns(config)
        if not header:
            number, line = next(lines, (1, b""))
            header = _decoded(path, number, line, config.encoding).split(config.delimiter)
        places = places_of(path, header, columns)

        def rows() -> Iterator[tuple[int, Sequence[str]]]:
            for number, line in lines:
                fields = _decoded(path, number, line, config.encoding).split(config.delimiter)
                if len(fields) == len(header):
                    yield number, [fields[place] for place in places]
                    continue
                dropped.refuse(
                    WIDTH,
                    f"{path}, line {number}: found {len(fields)} columns in {quoted(fields)}, "
                    f"expected {len(header)}",
                )

        yield from gather(rows())
        raw.check_end(path, dropped)


def _json(
    path: Path, config: FileConfig, columns: Sequence[str], dropped: Dropped
) -> Iterator[Chunk]:
    parse = _loose if config.format == "loose_jsonl" else orjson.loads

    def rows(raw: Unpacked) -> Iterator[tuple[int, Sequence[Any]]]:
        for number, line in _lines(raw):
            try:
                row = parse(line)
            except ValueError as error:
                cut = "the file ends in mid-line, " if not line.endswith(b"\n") else ""
                dropped.refuse(
                    "no JSON object",
                    f"{path}, line {number}: {cut}found {quoted(line)}, expected a JSON object "
                    f"({short(error)[:60]})",
                )
                continue
            if type(row) is dict:
                yield number, [row.get(column) for column in columns]
                continue
            dropped.refuse(
                "no JSON object",
                f"{path}, line {number}: found {quoted(line)}, expected a JSON object",
            )

    with Unpacked(path, whole=True) as raw:  # that an object is whole, it says itself
        yield from gather(rows(raw))


def _loose(line: bytes) -> Any:
    """A line of JSON, or of a Python literal; nothing in it is ever run."""
    try:
        return orjson.loads(line)
    except ValueError:
        try:
            return ast.literal_eval(line.decode("utf-8").strip())
        except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
            raise ValueError(f"neither JSON nor a Python literal: {error}") from None


def _sequences(
    path: Path, config: FileConfig, columns: Sequence[str], dropped: Dropped
) -> Iterator[Chunk]:
    """The columns user, item and position (from 0), whatever they are called."""
    del config, columns

    def rows(raw: Unpacked) -> Iterator[tuple[int, Sequence[Any]]]:
        for number, line in _lines(raw):
            user, *items = _decoded(path, number, line, "utf-8").split()
            if not items:
                dropped.refuse(
                    "a user without items", f"{path}, line {number}: user {user} has no items"
                )
            else:
                yield from ((number, (user, item, at)) for at, item in enumerate(items))

    with Unpacked(path) as raw:
        yield from gather(rows(raw))
        raw.check_end(path, dropped)


# ---- parquet ---------------------------------------------------------------------------------


def _parquet(
    path: Path, config: FileConfig, columns: Sequence[str], dropped: Dropped
) -> Iterator[Chunk]:
    del config, dropped
    file = cast(BinaryIO, str(path))
    with pq.ParquetFile(file) as table:
        places_of(path, table.schema_arrow.names, columns)
        start = 0
        for batch in table.iter_batches(ROWS, columns=list(columns)):

            def where(row: int, first: int = start) -> str:
                return f", row {first + row + 1}"

            yield Chunk([batch.column(name) for name in columns], where)
            start += len(batch)
