"""Write rankings to a file: Parquet, or JSON lines if the path ends in `.jsonl`.

    user    id               null for a user that the run does not know
    target  id               the target item, if all examples have one
    items   list of ids      best first
    scores  list of float32  log-probabilities in nats
    titles  list of strings  titles of the items, null for none; only if the run has titles

Ids are int64 (the numbers of a sequence file) or strings (the ids of a prepared dataset's log).

Rows are in the order of the examples. While a ranking is in progress, `FILE.parts/` contains a
Parquet file for each finished chunk. Rerun the command to resume with the missing chunks; it starts
over if the examples, the parameters, the search settings or the kind of device have changed. When
all chunks are finished, they are joined into FILE.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_jax.core.disk import DRAFT, atomic_file, write_atomically, writing
from genrec_jax.core.errors import InputError
from genrec_jax.core.file_lock import locked
from genrec_jax.core.processes import barrier, is_process_0, on_process_0
from genrec_jax.data.batches import BatchPlan
from genrec_jax.data.sequences import Examples
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.decoding.ranking import (
    CHUNK,
    Rankings,
    Watch,
    empty_rankings,
    split_into_chunks,
)

log = logging.getLogger(__name__)
SUFFIXES = (".parquet", ".jsonl")
MARKER = "identity.json"  # in the folder of parts: identifies the ranking


@on_process_0
def check_writable(path: Path, flag: str) -> None:
    """Check, before anything is ranked, that rankings can be written to `path`.

    Args:
        path: the file.
        flag: the flag that gave the path, for messages.

    Raises:
        InputError: `path` has another suffix or is a folder, or `FILE.parts` has other contents.
        DiskError: `path` cannot be written.
    """
    if path.suffix not in SUFFIXES:
        expected = " or ".join(SUFFIXES)
        raise InputError(f"{flag}={path}: found the suffix {path.suffix!r}, expected {expected}")
    parts = _parts(path)
    with writing(path):
        if path.is_dir():
            raise InputError(f"{flag}={path}: found a folder, expected a file to write")
        if parts.exists() and not _is_ours(parts):
            raise InputError(
                f"{parts}: found other files, expected only unfinished rankings of {path.name}; "
                "move the folder away"
            )
        is_new = not parts.exists()
        parts.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parts):
            pass
        if is_new:
            parts.rmdir()


def rank_to_file(
    path: Path,
    ranker: Ranker,
    examples: Examples,
    plan: BatchPlan,
    label: str,
    watch: Watch,
    chunk: int = CHUNK,
) -> Iterator[tuple[int, Rankings]]:
    """Rank all examples, write the rankings to `path`, and yield (start, rankings) of each chunk.

    The file is complete when the iterator is exhausted.

    Args:
        path: the file, which `check_writable` has checked.
        ranker: the ranker, with parameters.
        examples: the examples with their whole histories.
        plan: the batches of the examples, from `Ranker.plan`.
        label: the label of log lines and of the progress display.
        watch: wraps the batches to show progress.
        chunk: the number of examples that are ranked and written together.

    Raises:
        DiskError: the file cannot be written.
        InputError: another process is writing the same file.
    """
    parts = _parts(path)
    chunks = split_into_chunks(len(examples), chunk)
    n_short = 0
    with writing(path), locked(path.with_name(path.name + ".lock"), str(path)):
        _start_over_unless_same(parts, _identity(ranker, examples, chunk))
        finished = barrier(lambda: _read_finished(parts, chunks, ranker))
        if finished:
            log.info(
                "%s: resuming, %d of %d rankings are finished",
                label,
                sum(len(rankings.items) for rankings in finished.values()),
                len(examples),
            )
        missing = [(start, stop) for start, stop in chunks if start not in finished]
        new = ranker.rank_chunks(plan, missing, label, watch)
        for start, rankings in itertools.chain(finished.items(), new):
            if start not in finished:
                rows = np.arange(start, start + len(rankings.items))
                write_rankings(_part(parts, start), ranker, examples.take(rows), rankings)
            n_short += int((rankings.items < 0).any(axis=1).sum())
            yield start, rankings
        _publish(path, parts, [_part(parts, start) for start, _ in chunks])
    log.info("wrote %d rankings to %s", len(examples), path)
    if n_short:
        log.info("%d of them have fewer than %d items", n_short, ranker.evaluate.top_k)


def _parts(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _part(parts: Path, start: int) -> Path:
    return parts / f"{start:012d}.parquet"


def _identity(ranker: Ranker, examples: Examples, chunk: int) -> str:
    """Return a JSON text that differs if anything that the rankings depend on differs."""
    # Summed in float32 whatever the dtype: a sum in bfloat16 has only two or three digits.
    leaves = jax.tree.leaves(ranker.params)
    sums = [f"{float(leaf.sum(dtype=np.float32)):.9e}" for leaf in leaves]
    identifiers = ranker.catalogue.item_ids.tobytes()
    if ranker.catalogue.text is not None:
        identifiers = ranker.catalogue.table.tokens.tobytes()
    digest = hashlib.sha256()
    for array in dataclasses.astuple(examples):
        digest.update(np.ascontiguousarray(array).tobytes())
    return json.dumps(
        {
            "parameters": hashlib.sha256(" ".join(sums).encode()).hexdigest(),
            "catalogue": hashlib.sha256(identifiers).hexdigest(),
            "examples": digest.hexdigest(),
            "evaluate": dataclasses.asdict(ranker.evaluate),
            "chunk": chunk,
            "device": jax.devices()[0].device_kind,
        }
    )


def _is_ours(parts: Path) -> bool:
    """Return whether a ranking created this folder, even if it was killed before the marker."""
    if not parts.is_dir():
        return False
    names = {path.name for path in parts.iterdir()}
    return MARKER in names or names <= {f"{MARKER}{DRAFT}"}


@on_process_0
def _start_over_unless_same(parts: Path, identity: str) -> None:
    """Delete the parts of another ranking; `check_writable` has checked that they are ours."""
    marker = parts / MARKER
    if marker.is_file() and marker.read_text() == identity:
        return
    if parts.exists():
        shutil.rmtree(parts)
    parts.mkdir(parents=True)
    write_atomically(marker, identity)


def _read_finished(
    parts: Path, chunks: list[tuple[int, int]], ranker: Ranker
) -> dict[int, Rankings]:
    """Return the rankings of finished chunks by start. Damaged parts are logged and deleted."""
    finished = {}
    for start, stop in chunks:
        path = _part(parts, start)
        if not path.is_file():
            continue
        try:
            rankings = _read_part(path, ranker)
            if len(rankings.items) != stop - start:
                raise ValueError(f"found {len(rankings.items)} rankings, expected {stop - start}")
            finished[start] = rankings
        except (OSError, pa.ArrowException, ValueError, KeyError, InputError) as error:
            log.warning("WARNING: %s is damaged; its chunk is ranked again: %s", path, error)
            if is_process_0():
                path.unlink()
    return finished


@on_process_0
def write_rankings(path: Path, ranker: Ranker, examples: Examples, rankings: Rankings) -> None:
    """Write the rankings of some examples to a Parquet file, as the module describes.

    Args:
        path: the file.
        ranker: the ranker, for its catalogue.
        examples: the examples, in the order of the rankings.
        rankings: the rankings; positions without an item are left out.

    Raises:
        DiskError: the file cannot be written.
    """
    catalogue = ranker.catalogue
    is_item = rankings.items >= 0  # free search may find fewer than k items
    items = rankings.items[is_item]
    offsets = pa.array(np.concatenate([[0], np.cumsum(is_item.sum(axis=1))]).astype(np.int32))
    columns: dict[str, Any] = {"user": catalogue.users.take(examples.users)}
    if (examples.targets >= 0).all():
        columns["target"] = catalogue.items.take(examples.targets)
    columns["items"] = pa.ListArray.from_arrays(offsets, catalogue.items.take(items))
    columns["scores"] = pa.ListArray.from_arrays(offsets, rankings.scores[is_item])
    if catalogue.log_metadata and catalogue.log_metadata.has_titles:
        titles = pa.array(ranker.catalogue.titles(items), pa.string())
        columns["titles"] = pa.ListArray.from_arrays(offsets, titles)
    with atomic_file(path) as draft:
        pq.write_table(pa.table(columns), draft)


def _read_part(path: Path, ranker: Ranker) -> Rankings:
    """Read the rankings of a chunk back from its file."""
    table = pq.read_table(path)
    rankings = empty_rankings(table.num_rows, ranker.evaluate.top_k)
    items = table["items"].combine_chunks()
    lengths = np.diff(items.offsets.to_numpy())
    is_item = np.arange(ranker.evaluate.top_k) < lengths[:, None]
    rankings.items[is_item] = ranker.catalogue.items.rows(items.values.to_pylist())
    rankings.scores[is_item] = table["scores"].combine_chunks().values.to_numpy()
    return rankings


@on_process_0
def _publish(path: Path, folder: Path, parts: list[Path]) -> None:
    """Join all parts into one file atomically, with one part in memory at a time."""
    draft = folder / "whole"
    if path.suffix == ".jsonl":
        with draft.open("w", encoding="utf-8") as file:
            for part in parts:
                for line in pq.read_table(part).to_pylist():
                    line["scores"] = [round(score, 6) for score in line["scores"]]
                    file.write(json.dumps(line) + "\n")
    else:
        with pq.ParquetWriter(draft, pq.read_schema(parts[0])) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part))
    os.replace(draft, path)
    shutil.rmtree(folder)
