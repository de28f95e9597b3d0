"""Titles and attributes of the remaining items, from a file of items or from the log itself."""

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
    """Titles and attributes of items, aligned with their ids."""

    titles: list[str | None]
    attributes: list[list[str] | None]
    conflicts: int  # items whose rows have different titles or attributes


class Fact(NamedTuple):
    """The texts of an item in one row; of several rows, the smallest is used."""

    untitled: bool
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
    known: dict[int, Fact] = {}
    conflicts: set[int] = set()
    filled: set[str] = set()
    source = _source(config)
    for row, values, where in _rows(config, rows_of):
        filled |= {name for name, value in values.items() if value is not None}
        fact = _fact(source, values, where)
        if known.setdefault(row, fact) != fact:
            conflicts.add(row)
            known[row] = min(known[row], fact)
    for name in _columns(config):
        if name not in filled:
            raise InputError(
                f"{_source(config).file}: found no value in the column {name!r} for any of the "
                f"{len(item_ids)} remaining items, expected some"
            )
    unknown = Fact(True, "", [])
    facts = [known.get(row, unknown) for row in range(len(item_ids))]
    return ItemTexts(
        titles=[None if fact.untitled else fact.title for fact in facts],
        attributes=[fact.attributes or None for fact in facts],
        conflicts=len(conflicts),
    )


def _source(config: PrepareConfig) -> MetadataConfig:
    """Return the file of items, or the log as such a file."""
    if config.metadata.file:
        return config.metadata
    names = {field.name for field in dataclasses.fields(FileConfig)}
    file = {name: getattr(config.log, name) for name in names}
    return MetadataConfig(**file, item=config.log.item, title=config.log.title)


def _columns(config: PrepareConfig) -> list[str]:
    names = [_source(config).title, *_source(config).attributes.split(",")]
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def _rows(
    config: PrepareConfig, rows_of: pa.Array
) -> Iterator[tuple[int, dict[str, Any], Callable[[], str]]]:
    """Yield the index of an item, its columns in a line, and a function that names the line."""
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


def _fact(source: MetadataConfig, values: dict[str, Any], where: Callable[[], str]) -> Fact:
    title = values.get(source.title)
    if title is not None and type(title) not in (str, int):
        raise InputError(f"{where()}: found {quoted(title)} as a title, expected text")
    text = "" if title is None or not str(title).strip() else str(title)
    words = [
        word
        for name in source.attributes.split(",")
        for word in _words(values.get(name.strip()), source.separator)
    ]
    return Fact(not text, text, list(dict.fromkeys(words)))


def _words(value: Any, separator: str) -> list[str]:
    """Return the texts of an attribute column; nested lists are flattened, other types ignored."""
    if isinstance(value, list):
        return [word for part in value for word in _words(part, separator)]
    if not isinstance(value, str):
        return []
    parts = value.split(separator) if separator else [value]
    return [part.strip() for part in parts if part.strip()]
