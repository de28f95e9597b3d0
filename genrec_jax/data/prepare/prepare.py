"""Prepare an interaction log for training.

The pipeline reads and checks the log, drops duplicates, filters users and items to the k-core,
sorts by time, numbers users and items, and writes the folder that `data/prepared.py` describes.
"""

import filecmp
import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import duckdb

from genrec_jax.core.disk import writing
from genrec_jax.core.errors import DiskError, InputError
from genrec_jax.data.prepare.config import PrepareConfig
from genrec_jax.data.prepare.core_filter import Core, CoreFilter, Step
from genrec_jax.data.prepare.interactions import (
    Reading,
    input_files,
    read_interactions,
    start_reading,
)
from genrec_jax.data.prepare.item_texts import ItemTexts, read_item_texts
from genrec_jax.data.prepare.times import POSITIONS, write_instant
from genrec_jax.data.prepared import RECORD, TABLES, Prepared, write_prepared

log = logging.getLogger(__name__)

SPILL_FAILED = "failed to offload data block"  # DuckDB's message if it cannot spill to a full disk
TEXT_ENDINGS = r"(\.(csv|tsv|txt|dat|json|jsonl|parquet))?(\.(gz|zst))?$"


def prepare(config: PrepareConfig, output: Path) -> None:
    """Prepare a log and write the dataset; `output` is created only when it is complete.

    Args:
        config: the config of the preparation.
        output: the folder to create. If it already exists, it must contain the same dataset.

    Raises:
        InputError: a file, line or key is invalid, or `output` has other content.
        DiskError: `output`, or the scratch folder in the same directory, cannot be written.
    """
    files = input_files(config.log, "config.log.file")
    if config.metadata.file:
        input_files(config.metadata, "config.metadata.file")
    if output.exists() and not (output.is_dir() and (output / RECORD).is_file()):
        raise InputError(f"--output: found {output}, which already exists, expected a new folder")
    name = config.name or re.sub(TEXT_ENDINGS, "", files[0].name)
    with writing(f"--output={output}", duckdb.IOException):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
            try:
                _prepare_in(config, name, Path(scratch))
            except duckdb.OutOfMemoryException as error:
                raise _memory_error(error, config.memory_gb, output) from None
            _move(Path(scratch) / "result", output)


def _memory_error(error: duckdb.OutOfMemoryException, memory_gb: float, output: Path) -> InputError:
    """Return the error for too little memory, or for a full disk to which data was spilled."""
    if SPILL_FAILED in str(error):
        return DiskError(
            f"--output={output} cannot be written: No space left on device for scratch data beyond "
            f"config.memory_gb={memory_gb:g}"
        )
    return InputError(f"config.memory_gb={memory_gb:g} is not enough memory: {_short(error)}")


def _prepare_in(config: PrepareConfig, name: str, scratch: Path) -> None:
    """Run the pipeline, and write the dataset to scratch/result."""
    reading = start_reading(config)
    with CoreFilter(scratch, config.memory_gb) as core_filter:
        core_filter.load(read_interactions(config, reading))
        core_filter.steps += _steps_of_reading(config, reading)
        identity = core_filter.identity()
        core_filter.encode(config.duplicates)
        core_filter.filter(config.user_core, config.item_core, config.rounds)
        core = core_filter.result(config.seed)
    (scratch / "log.duckdb").unlink()
    texts = ItemTexts([], [], 0)
    if config.metadata.file or config.log.title:
        texts = read_item_texts(config, core.item_ids)
        _log_texts(texts)
    table = write_table(core_filter.steps)
    log.info("%s", table)
    _log_times(reading, core)
    result = scratch / "result"
    result.mkdir()
    prepared = Prepared(*core[:-1], titles=texts.titles, attributes=texts.attributes)
    write_prepared(
        result, name, prepared, _record(config, reading, identity, core_filter.steps, core)
    )


def _steps_of_reading(config: PrepareConfig, reading: Reading) -> list[Step]:
    """Return the counts after reading, after each reason for dropping lines, and in the window."""
    remaining = reading.rows + sum(reading.dropped.counts.values())
    steps = [Step("rows read", None, None, remaining)]
    for reason, count in sorted(reading.dropped.counts.items()):
        remaining -= count
        steps.append(Step(f"dropped: {reason}", None, None, remaining))
    if config.log.since or config.log.until:
        steps.append(Step("in the time window", None, None, remaining - reading.outside))
    if not steps[-1].interactions:
        counts = "; ".join(f"{step.step}: {step.interactions}" for step in steps)
        raise InputError(
            f"{config.log.file}: found no interactions ({counts}), expected at least one"
        )
    return steps


def write_table(steps: list[Step]) -> str:
    """Format the counts after every step as an aligned table."""
    rows: list[tuple[str, ...]] = [("", "users", "items", "interactions", "dropped")]
    previous: Step | None = None
    for step in steps:
        counts = [f"{n:,}" if n is not None else "" for n in step[1:]]
        dropped = previous.interactions - step.interactions if previous else 0
        rows.append((step.step, *counts, f"{dropped:,}" if dropped else ""))
        previous = step
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def _log_times(reading: Reading, core: Core) -> None:
    if reading.clock.requested == POSITIONS:
        log.info("times: positions in the lines")
    elif reading.first is not None and reading.last is not None:
        log.info(
            "times: %s%s, from %s to %s; %d of the remaining interactions are at the same instant "
            "as another of their user, and are ordered by a seeded hash",
            reading.clock.described,
            ", UTC if no zone is given" if reading.clock.zone_assumed else "",
            write_instant(reading.first),
            write_instant(reading.last),
            core.tied,
        )


def _log_texts(texts: ItemTexts) -> None:
    missing = sum(title is None for title in texts.titles)
    log.info("%d of %d items have a title", len(texts.titles) - missing, len(texts.titles))
    if texts.conflicts:
        log.info(
            "%d items have several titles or attributes; the alphabetically first title is used",
            texts.conflicts,
        )


def _record(
    config: PrepareConfig, reading: Reading, identity: str, steps: list[Step], core: Core
) -> dict[str, Any]:
    """Return the entries of dataset.json about the preparation."""
    return {
        "config": config.record(),
        # The checksum does not depend on the order of lines and files, or on their compression.
        "input": {"rows": reading.rows, "checksum_of_rows": identity},
        "times": {
            "unit": reading.clock.unit,
            "utc_assumed": reading.clock.zone_assumed,
            "first_microsecond": reading.first,
            "last_microsecond": reading.last,
            "tied_interactions": core.tied,
        },
        "steps": [step._asdict() for step in steps],
    }


def _move(result: Path, output: Path) -> None:
    """Move the complete folder to `output`; if that exists, check that it has the same content."""
    if output.exists():
        _, differ, missing = filecmp.cmpfiles(result, output, [RECORD, *TABLES], shallow=False)
        if differ or missing:
            raise InputError(
                f"--output: found another dataset in {output} (different files: "
                f"{', '.join(differ + missing)}), expected a new folder"
            )
        log.info("%s already contains this dataset", output)
        return
    shutil.move(result, output)
    size = sum(file.stat().st_size for file in output.iterdir())
    log.info("wrote %s: %s bytes", output, f"{size:,}")


def _short(error: object) -> str:
    return " ".join(str(error).split())[:160]
