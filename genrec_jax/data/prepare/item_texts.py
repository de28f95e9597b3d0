"""Read titles and attributes of the remaining items, from a file of items or from the log."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute

from genrec_jax.core.errors import InputError
from genrec_jax.data.prepare.config import FileConfig, MetadataConfig, PrepareConfig
from genrec_jax.data.prepare.interactions import Ids, input_files
from genrec_jax.data.prepare.log_chunks import Chunk, Dropped, Values, quoted
from genrec_jax.data.prepare.log_files import read_chunks

log = logging.getLogger(__name__)
pc: Any = pyarrow.compute  # its functions are defined at import time, unknown to type checkers


class ItemTexts(NamedTuple):
    """The titles and attributes of items, aligned with their ids."""

    titles: list[str | None]
    attributes: list[list[str] | None]
    conflicts: int  # number of items whose rows have different titles or attributes


class RowTexts(NamedTuple):
    """The texts of an item in one row; the smallest of an item's rows is used, by field order."""

    untitled: bool  # first, so that rows with a title are smaller
    title: str
    attributes: list[str]


def read_item_texts(config: PrepareConfig, item_ids: list[str]) -> ItemTexts:
    """Read the titles and attributes of some items.

    If the rows of an item differ, the one with the alphabetically first title is used. Titles are
    taken literally; a blank title counts as none.

    Args:
        config: the config of the preparation.
        item_ids: the ids of the items.

    Raises:
        InputError: a file cannot be read, a title is not text, or a column is empty for all items.
    """
    rows_of = pa.array(item_ids, pa.string())
    known: dict[int, RowTexts] = {}
    conflicts: set[int] = set()
    filled: set[str] = set()
    source = _source(config)
    for row, values, where in _rows(config, rows_of):
        filled |= {name for name, value in values.items() if value is not None}
        texts = _row_texts(source, values, where)
        if known.setdefault(row, texts) != texts:
            conflicts.add(row)
            known[row] = min(known[row], texts)
    for name in _columns(config):
        if name not in filled:
            raise InputError(
                f"{_source(config).file}: found no value in the column {name!r} for any of the "
                f"{len(item_ids)} remaining items, expected at least one"
            )
    unknown = RowTexts(True, "", [])
    found = [known.get(row, unknown) for row in range(len(item_ids))]
    return ItemTexts(
        titles=[None if texts.untitled else texts.title for texts in found],
        attributes=[texts.attributes or None for texts in found],
        conflicts=len(conflicts),
    )


def _source(config: PrepareConfig) -> MetadataConfig:
    """Return the config of the file of items, or of the log if there is no such file."""
    if config.metadata.file:
        return config.metadata
    keys = {field.name for field in dataclasses.fields(FileConfig)}
    file = {key: getattr(config.log, key) for key in keys}
    return MetadataConfig(**file, item=config.log.item, title=config.log.title)


def _columns(config: PrepareConfig) -> list[str]:
    """Return the columns with the title and the attributes, each once."""
    names = [_source(config).title, *_source(config).attributes.split(",")]
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def _rows(
    config: PrepareConfig, rows_of: pa.Array
) -> Iterator[tuple[int, dict[str, Any], Callable[[], str]]]:
    """Yield (index of an item, column → value, function that names the line) of each of its rows.

    Rows of other items are skipped.
    """
    source = _source(config)
    names = _columns(config)
    ids = Ids("item")
    dropped = Dropped(config.on_bad_line == "drop", Counter())
    for path in input_files(source, "config.metadata.file"):
        for chunk in read_chunks(path, source, [source.item, *names], dropped):
            rows = pc.index_in(ids.texts(chunk.columns[0], path, chunk), value_set=rows_of)
            is_known = rows.is_valid().to_pylist()
            columns = [_selected(values, is_known) for values in chunk.columns[1:]]
            lines = [line for line, known in enumerate(is_known) if known]
            for i, row in enumerate(rows.drop_null().to_pylist()):
                values = {name: column[i] for name, column in zip(names, columns, strict=True)}
                yield row, values, _where(path, chunk, lines[i])
    for reason, count in sorted(dropped.counts.items()):
        log.info("%s: dropped %d lines: %s", source.file, count, reason)


def _where(path: Path, chunk: Chunk, row: int) -> Callable[[], str]:
    return lambda: f"{path}{chunk.where(row)}"


def _selected(values: Values, mask: list[bool]) -> list[Any]:
    """Return the values where the mask is True, as Python objects."""
    if isinstance(values, list):
        return [value for value, selected in zip(values, mask, strict=True) if selected]
    column: Any = values
    return column.filter(pa.array(mask)).to_pylist()


def _row_texts(
    source: MetadataConfig, values: dict[str, Any], where: Callable[[], str]
) -> RowTexts:
    """Return the title and the distinct attributes of a row."""
    title = values.get(source.title)
    if title is not None and type(title) not in (str, int):
        raise InputError(f"{where()}: found {quoted(title)} as a title, expected text")
    text = "" if title is None or not str(title).strip() else str(title)
    words = [
        word
        for name in source.attributes.split(",")
        for word in _words(values.get(name.strip()), source.separator)
    ]
    return RowTexts(not text, text, list(dict.fromkeys(words)))


def _words(value: Any, separator: str) -> list[str]:
    """Return the texts of an attribute column; nested lists are flattened, other types ignored."""
    if isinstance(value, list):
        return [word for part in value for word in _words(part, separator)]
    if not isinstance(value, str):
        return []
    parts = value.split(separator) if separator else [value]
    return [part.strip() for part in parts if part.strip()]
