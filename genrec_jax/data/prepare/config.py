"""The config of `prepare`: every key with its type, default and meaning, checked as a whole.

`configs/prepare.py` sets the keys for known sources,
and `--config.KEY=VALUE` sets a key of a command.
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
    """The location and the format of a file of rows."""

    # A file or a pattern such as 'logs/*.csv.gz'; gzip and zstd are recognised by their first
    # bytes.
    file: str = ""
    # csv; jsonl: a JSON object per line; loose_jsonl: a JSON object or a Python literal per line
    # (Amazon 2014); parquet; sequences: lines `user item item …`, oldest first, with positions as
    # times.
    format: str = "csv"
    delimiter: str = (
        ","  # of csv; 'tab': a tab; with several characters ('::'), quotes have no meaning
    )
    columns: str = ""  # of csv without a header line: comma-separated column names
    encoding: str = "utf-8"  # of csv


@dataclass(frozen=True)
class LogConfig(FileConfig):
    """The interaction log and its columns."""

    user: str = "user"  # column of the user's id
    item: str = "item"  # column of the item's id
    time: str = "time"  # column of the time
    title: str = ""  # column of the item's title, if the log has one; "": none
    # s, ms, us, ns: numbers since 1970; iso: 2019-12-31, 2019-12-31 23:59:59, …T23:59:59.5+02:00
    # (UTC if no zone is given). auto: detected from the first time; a time of another kind is an
    # error.
    time_unit: str = "auto"
    since: str = ""  # ISO: earlier interactions are dropped; "": none
    until: str = ""  # ISO: later interactions are dropped; a date means its midnight, as in S3-Rec


@dataclass(frozen=True)
class MetadataConfig(FileConfig):
    """A file of items with titles and attributes; used only if `file` is set."""

    item: str = "item"  # column of the item's id
    title: str = ""  # column of the title; "": none
    attributes: str = ""  # comma-separated columns of attributes
    separator: str = ""  # splits the text of an attribute column, such as '|'


@dataclass(frozen=True)
class PrepareConfig:
    """The config of `prepare`: the files, and how the log is filtered and numbered."""

    # The dataset's name; "": the name of the log's first file without its suffix. Ids without a
    # letter denote the same users and items only in logs with the same name
    # (models/genrec/id_tables.py).
    name: str = ""
    log: LogConfig = field(default_factory=LogConfig)
    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    on_bad_line: str = "refuse"  # drop: drop and count rows without user, item or time
    # exact: keep one of the rows that agree in user, item and time. first: keep a user's earliest
    # interaction with an item. keep: keep all.
    duplicates: str = "exact"
    user_core: int = 5  # the minimum number of interactions of a user
    item_core: int = 5  # the minimum number of interactions of an item
    # Rounds of the filter, each of which removes all users and items below the core. 0: until no
    # user or item is below it. 1: a single pass, after which some may be below the core.
    rounds: int = 0
    seed: int = 0  # seed of the numbering, and of the order of a user's interactions at one instant
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

        Files are stored without their folders, which differ between machines. memory_gb is omitted,
        since the result does not depend on it.
        """
        values = self.to_dict()
        del values["memory_gb"]
        for group in ("log", "metadata"):
            values[group]["file"] = Path(values[group]["file"]).name
        return values


def _check(config: PrepareConfig) -> None:
    """Check that values are in range and do not contradict each other."""
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
        raise InputError("config.log.file: found none, expected the path of the log")
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
    """Check that all columns are set and differ from each other."""
    seen: dict[str, str] = {}
    for key, column in columns.items():
        if not column:
            raise InputError(f"{group}.{key}: found none, expected the name of a column")
        if column in seen:
            raise InputError(
                f"{group}.{key}: found {column!r}, the column of {group}.{seen[column]}, expected "
                "a different column"
            )
        seen[column] = key
