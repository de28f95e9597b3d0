"""The config of `prepare`: every key with its type, default and meaning, checked as a whole.

`configs/prepare.py` sets the keys of known sources, `--config.KEY=VALUE` a key for one command.
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
    """A file of rows."""

    # A file or a pattern such as 'logs/*.csv.gz'; gzip and zstd are recognised by their first
    # bytes.
    file: str = ""
    # csv; jsonl: a JSON object per line; loose_jsonl: a JSON object or a Python literal per line
    # (Amazon 2014); parquet; sequences: lines `user item item …`, oldest first, with positions as
    # times.
    format: str = "csv"
    delimiter: str = ","  # for csv; 'tab' for a tab; several characters ('::') allow no quotes
    columns: str = ""  # for csv without a header line: comma-separated column names
    encoding: str = "utf-8"  # for csv


@dataclass(frozen=True)
class LogConfig(FileConfig):
    """The interaction log."""

    user: str = "user"  # column of the user's id
    item: str = "item"  # column of the item's id
    time: str = "time"  # column of the time
    title: str = ""  # column of the item's title, if the log has one; "": none
    # s, ms, us, ns: numbers since 1970; iso: 2019-12-31, 2019-12-31 23:59:59, …T23:59:59.5+02:00
    # (UTC if no zone is given). auto: decided by the first time; times that look different are an
    # error.
    time_unit: str = "auto"
    since: str = ""  # ISO: earlier interactions are dropped; "": none
    until: str = ""  # ISO: later ones are dropped; a date means its midnight, as in S3-Rec's code


@dataclass(frozen=True)
class MetadataConfig(FileConfig):
    """A file of items with titles and attributes; used only if `file` is set."""

    item: str = "item"  # column of the item's id
    title: str = ""  # column of the title; "": none
    attributes: str = ""  # comma-separated columns of attributes
    separator: str = ""  # splits the text of an attribute column, such as '|'


@dataclass(frozen=True)
class PrepareConfig:
    """The config of a preparation."""

    # The dataset's name; "": the name of the log's first file without its suffix. Ids without a
    # letter denote the same users and items only in logs of one name (models/genrec/id_tables.py).
    name: str = ""
    log: LogConfig = field(default_factory=LogConfig)
    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    on_bad_line: str = "refuse"  # drop: drop and count rows without user, item or time
    # exact: keep one of the rows that agree in user, item and time. first: keep a user's earliest
    # interaction with an item. keep: keep all.
    duplicates: str = "exact"
    user_core: int = 5  # the fewest interactions of a user in the result
    item_core: int = 5  # the fewest interactions of an item
    # Rounds of the filter, each of which removes all users and items below the core. 0: until all
    # have enough. 1: a single pass, after which some may be below the core.
    rounds: int = 0
    seed: int = 0  # seed of the numbers, and of the order within one instant
    memory_gb: float = 2.0  # memory for sorting and counting before data is spilled to disk

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PrepareConfig":
        """Build a config from nested mappings with every key, and check it as a whole.

        Raises:
            InputError: a key is unknown, missing or ill-typed, or values contradict each other.
        """
        config = build(cls(), values)
        _check(config)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the config as nested dicts."""
        return dataclasses.asdict(self)

    def record(self) -> dict[str, Any]:
        """Return the config as stored in dataset.json.

        Files are stored by name, since folders differ between machines, and memory_gb is omitted,
        since the result does not depend on it.
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
        # A sequence needs one item each for training, validation and test.
        ("config.user_core", config.user_core, SHORTEST_SEQUENCE),
        ("config.item_core", config.item_core, 1),
        ("config.rounds", config.rounds, 0),
        ("config.seed", config.seed, 0),
        ("config.memory_gb", config.memory_gb, 0.1),
    ):
        if not least <= number < 2**31:
            raise InputError(f"{key}: found {number}, expected at least {least}")
    if not log.file:
        raise InputError("config.log.file: found none, expected the file of the log")
    if log.format != "sequences":
        _check_columns("config.log", {"user": log.user, "item": log.item, "time": log.time})
    if metadata.file:
        _check_columns("config.metadata", {"item": metadata.item})
        if not (metadata.title or metadata.attributes):
            raise InputError("config.metadata.title: found none, expected a column of the file")
        if log.title:
            raise InputError(
                f"config.log.title: found {log.title!r} and config.metadata.file, expected titles "
                "from one of them"
            )
    elif log.format == "sequences" and log.title:
        raise InputError(
            f"config.log.title: found {log.title!r}, expected none, since a sequence file has no "
            "titles"
        )
    for key, group in (("config.log", log), ("config.metadata", metadata)):
        if not group.delimiter or '"' in group.delimiter or "\n" in group.delimiter:
            raise InputError(
                f"{key}.delimiter: found {group.delimiter!r}, expected a character such as ',', or "
                "tab"
            )
        try:
            "".encode(group.encoding)
        except LookupError:
            raise InputError(
                f"{key}.encoding: found {group.encoding!r}, expected an encoding such as utf-8"
            ) from None
    since, until = (parse_instant(getattr(log, k), f"config.log.{k}") for k in ("since", "until"))
    if since is not None and until is not None and since > until:
        raise InputError(
            f"config.log.until: found {log.until}, expected a time after config.log.since = "
            f"{log.since}"
        )


def _check_columns(group: str, columns: dict[str, str]) -> None:
    seen: dict[str, str] = {}
    for key, column in columns.items():
        if not column:
            raise InputError(f"{group}.{key}: found none, expected the name of a column")
        if column in seen:
            raise InputError(
                f"{group}.{key}: found {column!r}, the column of {group}.{seen[column]}, expected "
                "another"
            )
        seen[column] = key
