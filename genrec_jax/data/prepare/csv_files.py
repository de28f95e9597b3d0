"""Read CSV files in chunks with pyarrow; Python's csv module finds the line of a fault."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.csv

from genrec_jax.core.errors import InputError
from genrec_jax.data.prepare.config import FileConfig
from genrec_jax.data.prepare.log_chunks import (
    BLOCK,
    FAULTS,
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


def read_csv(
    path: Path, config: FileConfig, columns: Sequence[str], dropped: Dropped
) -> Iterator[Chunk]:
    """Read some columns of a CSV file in chunks.

    Args:
        path: the file.
        config: its format.
        columns: the columns to return, in this order.
        dropped: counts lines that cannot be parsed, or refuses them.

    Raises:
        InputError: the file cannot be read, a column is missing, or a line cannot be parsed.
    """
    header = named_columns(config) or next(_csv_records(path, config), (0, []))[1]
    if not header:
        raise InputError(f"{path}: found an empty file, expected a header line and rows")
    indices = column_indices(path, header, columns)

    with Unpacked(path) as raw:
        if dropped.allowed:
            yield from gather(_python_rows(path, raw, config, len(header), indices, dropped))
        else:
            try:
                reader = _open_csv(raw, config, len(header), indices)
                yield from _csv_chunks(reader, path, config)
            except pa.ArrowInvalid as error:
                raise InputError(_csv_fault(path, config, len(header), error)) from None
        raw.check_end(path, dropped)


def _python_rows(
    path: Path,
    raw: Unpacked,
    config: FileConfig,
    width: int,
    indices: list[int],
    dropped: Dropped,
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields), and drop lines with another number of columns or another encoding.

    pyarrow's reader cannot skip such lines.
    """
    records = _records(raw, config, "surrogateescape")
    if not config.columns:
        next(records, None)
    try:
        for line, record in records:
            if len(record) != width:
                dropped.refuse(WIDTH, "")
            elif not _is_text(record):
                dropped.refuse("no text", "")
            else:
                yield line, [record[index] for index in indices]
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as csv: {short(error)}") from None


def _is_text(record: list[str]) -> bool:
    """Return whether all bytes of a record could be decoded."""
    try:
        "".join(record).encode()
    except UnicodeEncodeError:
        return False
    return True


def _open_csv(
    raw: Unpacked, config: FileConfig, width: int, indices: list[int]
) -> pyarrow.csv.CSVStreamingReader:
    """Open pyarrow's reader for some of `width` columns, all of which are read as text."""
    names = [str(index) for index in range(width)]
    return pyarrow.csv.open_csv(
        raw,
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False,
            block_size=BLOCK,
            column_names=names,
            skip_rows=0 if config.columns else 1,
            encoding=config.encoding,
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter(config), newlines_in_values=True
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=[names[index] for index in indices],
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=False,
        ),
    )


def _csv_chunks(reader: Any, path: Path, config: FileConfig) -> Iterator[Chunk]:
    start = 0
    for batch in reader:

        def where(row: int, first: int = start) -> str:
            return _csv_line(path, config, first + row)

        yield Chunk(batch.columns, where)
        start += len(batch)


def _csv_records(path: Path, config: FileConfig) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of every record, including the header; replace undecodable bytes."""
    with Unpacked(path, whole=True) as raw:
        yield from _records(raw, config, "replace")


def _records(raw: Unpacked, config: FileConfig, errors: str) -> Iterator[tuple[int, list[str]]]:
    buffered = io.BufferedReader(cast(Any, raw), 2**20)
    encoding = "utf-8-sig" if config.encoding == "utf-8" else config.encoding
    lines = io.TextIOWrapper(buffered, encoding=encoding, errors=errors, newline="")
    reader = csv.reader(lines, delimiter=delimiter(config))
    before = 0
    for record in reader:
        if record:
            yield before + 1, record
        before = reader.line_num


def _csv_line(path: Path, config: FileConfig, row: int) -> str:
    """Return a row's position in the file, such as ', line 17'.

    Args:
        path: the file.
        config: its format.
        row: the index of the row, without the header and blank lines.
    """
    skipped = row if config.columns else row + 1
    try:
        for record, (line, _) in enumerate(_csv_records(path, config)):
            if record == skipped:
                return f", line {line}"
    except (csv.Error, *FAULTS):
        pass
    return f", row {row + 1}"


def _csv_fault(path: Path, config: FileConfig, width: int, error: pa.ArrowInvalid) -> str:
    """Return the message for the first line that is not text or has another width."""
    expected = f"expected {width} as in the " + ("config" if config.columns else "header")
    try:
        for line, record in _csv_records(path, config):
            if len(record) != width:
                found = f"found {len(record)} columns in {quoted(record)}"
                return f"{path}, line {line}: {found}, {expected}"
            if any("\ufffd" in text for text in record) and "UTF8" in str(error):
                return f"{path}, line {line}: found {quoted(record)}, expected text in UTF-8"
    except (csv.Error, *FAULTS):
        pass
    return f"{path}: cannot be read as csv: {short(error)}"
