"""Read some columns of a log's file, in chunks to bound the memory.

    csv           a one-character delimiter and quotes as in RFC 4180 (pyarrow's reader); a longer
                  delimiter, such as MovieLens' `::`, splits lines without quotes
    jsonl         a JSON object per line (orjson)
    loose_jsonl   a JSON object or a Python literal per line, as in Amazon's files of 2014
    parquet       pyarrow's reader
    sequences     lines `user item item …`, oldest first; each item is a row

Text may be compressed with gzip or zstd. Blank lines are skipped. A text file must end with a
newline (JSON: with a complete object), since a truncated file might otherwise end in a shorter,
wrong number.
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
    column_indices,
    delimiter,
    gather,
    named_columns,
    quoted,
    short,
)


def read_chunks(
    path: Path, config: FileConfig, columns: Sequence[str], dropped: Dropped
) -> Iterator[Chunk]:
    """Read some columns of a file; missing keys of a JSON object become None.

    Args:
        path: the file.
        config: its format.
        columns: the columns to return, in this order.
        dropped: counts lines that cannot be parsed, or refuses them.

    Raises:
        InputError: the file cannot be read, a column is missing, or a line cannot be parsed.
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
    """Yield (line number, bytes) of every line that is not blank."""
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
    """Read lines whose fields are separated by a delimiter of several characters."""
    with Unpacked(path) as raw:
        lines = _lines(raw)
        header = named_columns(config)
        if not header:
            number, line = next(lines, (1, b""))
            header = _decoded(path, number, line, config.encoding).split(config.delimiter)
        indices = column_indices(path, header, columns)

        def rows() -> Iterator[tuple[int, Sequence[str]]]:
            for number, line in lines:
                fields = _decoded(path, number, line, config.encoding).split(config.delimiter)
                if len(fields) == len(header):
                    yield number, [fields[index] for index in indices]
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
    """Read the columns of JSON objects; missing keys become None."""
    parse = _parse_loosely if config.format == "loose_jsonl" else orjson.loads

    def rows(raw: Unpacked) -> Iterator[tuple[int, Sequence[Any]]]:
        for number, line in _lines(raw):
            try:
                row = parse(line)
            except ValueError as error:
                truncated = "" if line.endswith(b"\n") else "the last line has no newline, "
                dropped.refuse(
                    "no JSON object",
                    f"{path}, line {number}: {truncated}found {quoted(line)}, expected a JSON "
                    f"object ({short(error)[:60]})",
                )
                continue
            if type(row) is dict:
                yield number, [row.get(column) for column in columns]
                continue
            dropped.refuse(
                "no JSON object",
                f"{path}, line {number}: found {quoted(line)}, expected a JSON object",
            )

    with Unpacked(path, whole=True) as raw:  # the parser detects an incomplete object
        yield from gather(rows(raw))


def _parse_loosely(line: bytes) -> Any:
    """Parse a JSON value or a Python literal; no code is executed."""
    try:
        return orjson.loads(line)
    except ValueError:
        try:
            return ast.literal_eval(line.decode("utf-8").strip())
        except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
            raise ValueError(f"found neither JSON nor a Python literal: {error}") from None


def _sequences(
    path: Path, config: FileConfig, columns: Sequence[str], dropped: Dropped
) -> Iterator[Chunk]:
    """Read every item of a sequence as a row of user, item and position (from 0)."""
    del config, columns

    def rows(raw: Unpacked) -> Iterator[tuple[int, Sequence[Any]]]:
        for number, line in _lines(raw):
            user, *items = _decoded(path, number, line, "utf-8").split()
            if not items:
                dropped.refuse(
                    "a user without items",
                    f"{path}, line {number}: found user {user} without items, expected at least "
                    "one",
                )
            else:
                yield from ((number, (user, item, index)) for index, item in enumerate(items))

    with Unpacked(path) as raw:
        yield from gather(rows(raw))
        raw.check_end(path, dropped)


# ---- parquet ---------------------------------------------------------------------------------


def _parquet(
    path: Path, config: FileConfig, columns: Sequence[str], dropped: Dropped
) -> Iterator[Chunk]:
    """Read columns of a Parquet file; messages name the row instead of the line."""
    del config, dropped
    file = cast(BinaryIO, str(path))
    with pq.ParquetFile(file) as table:
        column_indices(path, table.schema_arrow.names, columns)
        start = 0
        for batch in table.iter_batches(ROWS, columns=list(columns)):

            def where(row: int, first: int = start) -> str:
                return f", row {first + row + 1}"

            yield Chunk([batch.column(name) for name in columns], where)
            start += len(batch)
