"""A log → a prepared dataset that training reads.

Reads, checks, drops duplicates, filters users and items to the k-core, orders by time, numbers,
and writes the folder that `data/prepared.py` describes.
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
from genrec_jax.data.prepare.core_filter import Core, Step, Workbench
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

SPILL_FAILED = "failed to offload data block"  # DuckDB, when it cannot spill to a full disk
TEXT_ENDINGS = r"(\.(csv|tsv|txt|dat|json|jsonl|parquet))?(\.(gz|zst))?$"


def prepare(config: PrepareConfig, output: Path) -> None:
    """Write the dataset of a log into the folder `output`, all of it or nothing.

    Raises:
        InputError: a file, line or key that is wrong; a folder that holds something else.
        DiskError: the folder, or the scratch folder beside it, cannot be written.
    """
    files = input_files(config.log, "config.log.file")
    if config.metadata.file:
        input_files(config.metadata, "config.metadata.file")
    if output.exists() and not (output.is_dir() and (output / RECORD).is_file()):
        raise InputError(f"--output: found {output}, expected a new folder")
    name = config.name or re.sub(TEXT_ENDINGS, "", files[0].name)
    with writing(f"--output={output}", duckdb.IOException):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
            try:
                _prepare_in(config, name, Path(scratch))
            except duckdb.OutOfMemoryException as error:
                raise _in_words(error, config.memory_gb, output) from None
            _move(Path(scratch) / "result", output)


def _in_words(error: duckdb.OutOfMemoryException, memory_gb: float, output: Path) -> InputError:
    """Say what is full: DuckDB's memory, or the disk that it then spills to."""
    if SPILL_FAILED in str(error):
        return DiskError(
            f"--output={output} cannot be written: No space left on device for scratch data beyond "
            f"config.memory_gb={memory_gb:g}"
        )
    return InputError(f"config.memory_gb={memory_gb:g} is not enough: {_short(error)}")


def _prepare_in(config: PrepareConfig, name: str, scratch: Path) -> None:
    reading = start_reading(config)
    with Workbench(scratch, config.memory_gb) as bench:
        bench.load(read_interactions(config, reading))
        bench.steps += _steps_of_reading(config, reading)
        identity = bench.identity()
        bench.encode(config.duplicates)
        bench.filter(config.user_core, config.item_core, config.rounds)
        core = bench.result(config.seed)
    (scratch / "log.duckdb").unlink()
    texts = ItemTexts([], [], 0)
    if config.metadata.file or config.log.title:
        texts = read_item_texts(config, core.item_ids)
        _tell_texts(texts)
    table = write_table(bench.steps)
    log.info("%s", table)
    _tell_times(reading, core)
    result = scratch / "result"
    result.mkdir()
    prepared = Prepared(*core[:-1], titles=texts.titles, attributes=texts.attributes)
    write_prepared(result, name, prepared, _record(config, reading, identity, bench.steps, core))


def _steps_of_reading(config: PrepareConfig, reading: Reading) -> list[Step]:
    """Every kind of row that did not come through, and what did."""
    left = reading.rows + sum(reading.dropped.counts.values())
    steps = [Step("rows read", None, None, left)]
    for reason, count in sorted(reading.dropped.counts.items()):
        left -= count
        steps.append(Step(f"left out: {reason}", None, None, left))
    if config.log.since or config.log.until:
        steps.append(Step("in the window of time", None, None, left - reading.outside))
    if not steps[-1].interactions:
        told = "; ".join(f"{step.step}: {step.interactions}" for step in steps)
        raise InputError(f"{config.log.file}: holds no interactions ({told})")
    return steps


def write_table(steps: list[Step]) -> str:
    """The counts of every step as aligned text."""
    rows: list[tuple[str, ...]] = [("", "users", "items", "interactions", "dropped")]
    before: Step | None = None
    for step in steps:
        counts = [f"{n:,}" if n is not None else "" for n in step[1:]]
        dropped = before.interactions - step.interactions if before else 0
        rows.append((step.step, *counts, f"{dropped:,}" if dropped else ""))
        before = step
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )


def _tell_times(reading: Reading, core: Core) -> None:
    if reading.clock.asked == POSITIONS:
        log.info("times: the places in the lines")
    elif reading.first is not None and reading.last is not None:
        log.info(
            "times: %s%s, from %s to %s; %d of the interactions left are at the same instant as "
            "another of their user, and stand in the order of a seeded hash",
            reading.clock.described,
            ", UTC where no zone stands" if reading.clock.zone_assumed else "",
            write_instant(reading.first),
            write_instant(reading.last),
            core.tied,
        )


def _tell_texts(texts: ItemTexts) -> None:
    missing = sum(title is None for title in texts.titles)
    log.info("%d of %d items have a title", len(texts.titles) - missing, len(texts.titles))
    if texts.conflicts:
        log.info(
            "%d items are told different things of: the first title in the order of characters is "
            "taken",
            texts.conflicts,
        )


def _record(
    config: PrepareConfig, reading: Reading, identity: str, steps: list[Step], core: Core
) -> dict[str, Any]:
    return {
        "config": config.record(),
        # Of the rows that were read, whatever the order of lines and files and their packing.
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
    """Under its name only when it is whole; what is there already must be the same."""
    if output.exists():
        _, differ, missing = filecmp.cmpfiles(result, output, [RECORD, *TABLES], shallow=False)
        if differ or missing:
            raise InputError(
                f"--output: {output} holds another dataset (other files: "
                f"{', '.join(differ + missing)}), expected a new folder"
            )
        log.info("%s holds this very dataset already", output)
        return
    shutil.move(result, output)
    size = sum(file.stat().st_size for file in output.iterdir())
    log.info("%s: %s bytes", output, f"{size:,}")


def _short(error: object) -> str:
    return " ".join(str(error).split())[:160]
