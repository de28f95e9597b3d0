"""Titles and attributes of the items that are left, from a file of items or from the log itself."""

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
pc: Any = pyarrow.compute  # its functions are made at import, and unknown to a type checker


class ItemTexts(NamedTuple):
    """What is known of items, aligned with their ids."""

    titles: list[str | None]
    attributes: list[list[str] | None]
    conflicts: int  # items of which rows tell different things


class Fact(NamedTuple):
    """What one row says of an item; the least of an item's facts stands."""

    untitled: bool
    title: str
    attributes: list[str]


def read_item_texts(config: PrepareConfig, item_ids: list[str]) -> ItemTexts:
    """What is told of these items.

    Where the rows of an item differ, the one with the first title in the order of characters
    stands. Titles are taken as they are; one of white space alone is none.

    Raises:
        InputError: see `read_chunks`; a title that is no text; a column that no row of these
            items has anything in.
    """
    rows_of = pa.array(item_ids, pa.string())
    known: dict[int, Fact] = {}
    conflicts: set[int] = set()
    told: set[str] = set()
    source = _source(config)
    for row, values, where in _rows(config, rows_of):
        told |= {name for name, value in values.items() if value is not None}
        fact = _fact(source, values, where)
        if known.setdefault(row, fact) != fact:
            conflicts.add(row)
            known[row] = min(known[row], fact)
    for name in _columns(config):
        if name not in told:
            raise InputError(
                f"{_source(config).file}: no row of the {len(item_ids)} items that are left has "
                f"anything in the column {name!r}"
            )
    nothing = Fact(True, "", [])
    facts = [known.get(row, nothing) for row in range(len(item_ids))]
    return ItemTexts(
        titles=[None if fact.untitled else fact.title for fact in facts],
        attributes=[fact.attributes or None for fact in facts],
        conflicts=len(conflicts),
    )


def _source(config: PrepareConfig) -> MetadataConfig:
    """The file of items, or the log as such a file."""
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
    """The place of an item, the columns that a line has on it, and which line that is."""
    source = _source(config)
    names = _columns(config)
    ids = Ids("item")
    dropped = Dropped(config.on_bad_line == "drop", Counter())
    for path in input_files(source, "config.metadata.file"):
        for chunk in read_chunks(path, source, [source.item, *names], dropped):
            places = pc.index_in(ids.texts(chunk.columns[0], path, chunk), value_set=rows_of)
            found = places.is_valid().to_pylist()
            columns = [_taken(values, found) for values in chunk.columns[1:]]
            lines = [line for line, there in enumerate(found) if there]
            for at, row in enumerate(places.drop_null().to_pylist()):
                values = {name: column[at] for name, column in zip(names, columns, strict=True)}
                yield row, values, _where(path, chunk, lines[at])
    for reason, count in sorted(dropped.counts.items()):
        log.info("%s: %d lines left out: %s", source.file, count, reason)


def _where(path: Path, chunk: Chunk, row: int) -> Callable[[], str]:
    return lambda: f"{path}{chunk.where(row)}"


def _taken(values: Values, wanted: list[bool]) -> list[Any]:
    """The wanted of the values, as Python objects."""
    if isinstance(values, list):
        return [value for value, there in zip(values, wanted, strict=True) if there]
    column: Any = values
    return column.filter(pa.array(wanted)).to_pylist()


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
    """The texts of an attribute column: lists in lists are laid flat, the rest is no attribute."""
    if isinstance(value, list):
        return [word for part in value for word in _words(part, separator)]
    if not isinstance(value, str):
        return []
    parts = value.split(separator) if separator else [value]
    return [part.strip() for part in parts if part.strip()]
