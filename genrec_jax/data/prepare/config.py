"""Every key of the preparation's config: its type, its default, what it means; checked as a whole.

`configs/prepare.py` sets them for known sources, `--config.key=value` for one command.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec_jax.core.config_fields import build
from genrec_jax.core.errors import InputError
from genrec_jax.data.prepare.times import UNITS, parse_instant
from genrec_jax.data.sequences import SHORTEST_SEQUENCE

FORMATS = ("csv", "jsonl", "loose_jsonl", "parquet", "sequences")
DUPLICATES = ("exact", "first", "keep")
BAD_LINES = ("refuse", "drop")


@dataclass(frozen=True)
class FileConfig:
    # A file, or a pattern as 'logs/*.csv.gz'; gzip and zstd are recognised by their first bytes.
    file: str = ""
    # csv; jsonl: an object a line; loose_jsonl: the same, or Python literals (Amazon 2014);
    # parquet; sequences: `user item item …` a line, oldest first, the position as the time.
    format: str = "csv"
    delimiter: str = ","  # of csv; 'tab' for a tab; '::' and the like are read without quotes
    columns: str = ""  # of csv without a header line: the names, with commas
    encoding: str = "utf-8"  # of csv


@dataclass(frozen=True)
class LogConfig(FileConfig):
    user: str = "user"  # the column of the user's id, and so on
    item: str = "item"
    time: str = "time"
    title: str = ""  # of the item's title, where the log itself has one; "": none
    # s, ms, us, ns: numbers since 1970; iso: 2019-12-31, 2019-12-31 23:59:59, …T23:59:59.5+02:00
    # (UTC where no zone stands). auto: what the first time looks like, and an error if another
    # time looks otherwise.
    time_unit: str = "auto"
    since: str = ""  # ISO: earlier interactions are left out; "": none
    until: str = ""  # ISO: later ones are; a date alone is its midnight, as in S3-Rec's code


@dataclass(frozen=True)
class MetadataConfig(FileConfig):
    """A file of items, with their titles and attributes; without `file`, none of this matters."""

    item: str = "item"  # the column of the item's id
    title: str = ""  # column; "": none
    attributes: str = ""  # columns, with commas
    separator: str = ""  # what splits the text of an attribute column, as '|'


@dataclass(frozen=True)
class PrepareConfig:
    # Of the dataset; "": the name of the log's first file without its suffix. Ids without a letter
    # in them mean the same users and items only in logs of one name (models/genrec/id_tables.py).
    name: str = ""
    log: LogConfig = field(default_factory=LogConfig)
    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    on_bad_line: str = "refuse"  # drop: count and leave out rows without user, item or time
    # exact: of rows that agree in user, item and time one is kept. first: of all of a user's
    # interactions with an item the earliest. keep: all.
    duplicates: str = "exact"
    user_core: int = 5  # interactions that every user has in the end, at least
    item_core: int = 5
    # Rounds of the filter; each removes all users and items that are below the core when it
    # begins. 0: until none is. 1: a single pass, after which some may be below it.
    rounds: int = 0
    seed: int = 0  # of the numbers and of the order within one instant
    memory_gb: float = 2.0  # that sorting and counting take before they go to disk

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PrepareConfig":
        """From nested mappings that hold every key, checked as a whole.

        Raises:
            InputError: an unknown, missing or ill-typed key, or values that do not fit together.
        """
        config = build(cls(), values)
        _check(config)
        return config

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def record(self) -> dict[str, Any]:
        """The config as dataset.json holds it: files by name, since folders differ by machine.

        memory_gb is left out: the result does not depend on it.
        """
        values = self.to_dict()
        del values["memory_gb"]
        for group in ("log", "metadata"):
            values[group]["file"] = Path(values[group]["file"]).name
        return values


def _check(config: PrepareConfig) -> None:
    log, metadata = config.log, config.metadata
    for key, found, allowed in (
        ("config.log.format", log.format, FORMATS),
        ("config.metadata.format", metadata.format, FORMATS[:-1]),
        ("config.log.time_unit", log.time_unit, UNITS),
        ("config.duplicates", config.duplicates, DUPLICATES),
        ("config.on_bad_line", config.on_bad_line, BAD_LINES),
    ):
        if found not in allowed:
            raise InputError(f"{key}: found {found!r}, expected one of {', '.join(allowed)}")
    for key, number, least in (
        # A sequence gives one item each to train, validate and test.
        ("config.user_core", config.user_core, SHORTEST_SEQUENCE),
        ("config.item_core", config.item_core, 1),
        ("config.rounds", config.rounds, 0),
        ("config.seed", config.seed, 0),
        ("config.memory_gb", config.memory_gb, 0.1),
    ):
        if not least <= number < 2**31:
            raise InputError(f"{key}: found {number}, expected at least {least}")
    if not log.file:
        raise InputError("config.log.file: found none, expected the log's file")
    if log.format != "sequences":
        _check_columns("config.log", {"user": log.user, "item": log.item, "time": log.time})
    if metadata.file:
        _check_columns("config.metadata", {"item": metadata.item})
        if not (metadata.title or metadata.attributes):
            raise InputError("config.metadata.title: found none, expected a column of the file")
        if log.title:
            raise InputError(f"config.log.title: found {log.title!r} beside config.metadata.file")
    elif log.format == "sequences" and log.title:
        raise InputError("config.log.title: a sequence file holds no titles")
    for key, group in (("config.log", log), ("config.metadata", metadata)):
        if not group.delimiter or '"' in group.delimiter or "\n" in group.delimiter:
            raise InputError(f"{key}.delimiter: found {group.delimiter!r}, expected as ',' or tab")
        try:
            "".encode(group.encoding)
        except LookupError:
            raise InputError(f"{key}.encoding: found {group.encoding!r}, as utf-8") from None
    since, until = (parse_instant(getattr(log, k), f"config.log.{k}") for k in ("since", "until"))
    if since is not None and until is not None and since > until:
        raise InputError(f"config.log.until: found {log.until}, before since = {log.since}")


def _check_columns(group: str, columns: dict[str, str]) -> None:
    seen: dict[str, str] = {}
    for key, column in columns.items():
        if not column:
            raise InputError(f"{group}.{key}: found none, expected the name of a column")
        if column in seen:
            raise InputError(f"{group}.{key}: found {column!r}, which is {seen[column]}'s column")
        seen[column] = key
