"""Ranked lists as a file: Parquet, or JSON lines where the name says `.jsonl`.

    user    id               null for a user that the run does not know
    target  id               what was held out, where it is known
    items   list of ids      best first
    scores  list of float32  log-probabilities in nats
    titles  list of strings  of the items, null for none; where the run has titles at all

Ids are int64, the numbers of a sequence file, or strings, the log's own of a prepared dataset.

Rows stand in the order of the examples. While a ranking runs, `FILE.parts/` holds a Parquet file
for each finished chunk; the same command goes on with the missing chunks, if it would rank
the same examples with the same parameters in the same way. At the end they become FILE.
"""

import dataclasses
import hashlib
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

from genrec_jax.core.disk import DRAFT, whole_file, write_atomically, writing
from genrec_jax.core.errors import InputError
from genrec_jax.core.file_lock import locked
from genrec_jax.core.processes import by_the_first, is_first, together
from genrec_jax.data.batches import BatchPlan
from genrec_jax.data.sequences import Examples
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.decoding.ranking import CHUNK, RankedLists, Watch, split_into_chunks

log = logging.getLogger(__name__)
SUFFIXES = (".parquet", ".jsonl")
MARKER = "identity.json"  # in the folder of parts


@by_the_first
def check_writable(path: Path, name: str) -> None:
    """Check, before anything is ranked, that `path` can become a file of lists.

    Args:
        path: of the file.
        name: of the flag that gave it.

    Raises:
        InputError: it has another ending, is a folder, or its drafts would replace something else.
        DiskError: it cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{name}={path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    parts = _parts(path)
    with writing(path):
        if path.is_dir():
            raise InputError(f"{name}={path}: found a folder, expected a file to write")
        if parts.exists() and not _is_ours(parts):
            raise InputError(
                f"{parts}: is needed for the work on {path.name}, but holds something else; move "
                "it away"
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
) -> Iterator[tuple[int, RankedLists]]:
    """Rank all examples; yields (start, lists) a chunk, and leaves the file when it is through.

    Args:
        path: of the file; see `check_writable`.
        ranker: with its parameters.
        examples: whole, as the plan was made from.
        plan: their batches.
        label: for the log and the progress.
        watch: shows the progress.
        chunk: examples to rank and to write together.

    Raises:
        DiskError: the file cannot be written.
        InputError: another process ranks into the same file.
    """
    parts = _parts(path)
    chunks = split_into_chunks(len(examples), chunk)
    short = 0
    with writing(path), locked(path.with_name(path.name + ".lock"), str(path)):
        _start_over_unless_same(parts, _identity(ranker, examples, chunk))
        done = together(lambda: _read_done(parts, chunks, ranker))
        if done:
            log.info(
                "%s: going on, %d of %d lists are there",
                label,
                sum(len(lists.items) for lists in done.values()),
                len(examples),
            )
        missing = [one for one in chunks if one[0] not in done]
        for start, lists in _both(done, ranker.rank_chunks(plan, missing, label, watch)):
            if start not in done:
                rows = np.arange(start, start + len(lists.items))
                write_lists(_part(parts, start), ranker, examples.take(rows), lists)
            short += int((lists.items < 0).any(axis=1).sum())
            yield start, lists
        _publish(path, parts, [_part(parts, start) for start, _ in chunks])
    log.info("wrote %d ranked lists to %s", len(examples), path)
    if short:
        log.info("%d of them name fewer than %d items", short, ranker.evaluate.top_k)


def _both(
    done: dict[int, RankedLists], rest: Iterator[tuple[int, RankedLists]]
) -> Iterator[tuple[int, RankedLists]]:
    yield from done.items()
    yield from rest


def _parts(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _part(parts: Path, start: int) -> Path:
    return parts / f"{start:012d}.parquet"


def _identity(ranker: Ranker, examples: Examples, chunk: int) -> str:
    """Changes with anything that the lists depend on."""
    # In float32 whatever the leaves are: a sum in bfloat16 would have two or three digits.
    leaves = jax.tree.leaves(ranker.params)
    sums = [f"{float(leaf.sum(dtype=np.float32)):.9e}" for leaf in leaves]
    identifiers = ranker.catalogue.item_ids.tobytes()
    if ranker.catalogue.text is not None:
        identifiers = ranker.catalogue.table.tokens.tobytes()
    asked = hashlib.sha256()
    for array in dataclasses.astuple(examples):
        asked.update(np.ascontiguousarray(array).tobytes())
    return json.dumps(
        {
            "parameters": hashlib.sha256(" ".join(sums).encode()).hexdigest(),
            "catalogue": hashlib.sha256(identifiers).hexdigest(),
            "examples": asked.hexdigest(),
            "evaluate": dataclasses.asdict(ranker.evaluate),
            "chunk": chunk,
            "device": jax.devices()[0].device_kind,
        }
    )


def _is_ours(parts: Path) -> bool:
    """A folder that a ranking made, or one in which it was cut short before its marker."""
    if not parts.is_dir():
        return False
    names = {path.name for path in parts.iterdir()}
    return MARKER in names or names <= {f"{MARKER}{DRAFT}"}


@by_the_first
def _start_over_unless_same(parts: Path, identity: str) -> None:
    """Called after `check_writable`: what is there is ours."""
    marker = parts / MARKER
    if marker.is_file() and marker.read_text() == identity:
        return
    if parts.exists():
        shutil.rmtree(parts)
    parts.mkdir(parents=True)
    write_atomically(marker, identity)


def _read_done(
    parts: Path, chunks: list[tuple[int, int]], ranker: Ranker
) -> dict[int, RankedLists]:
    """The chunks that are there whole. A damaged one is said, and ranked again."""
    done = {}
    for start, stop in chunks:
        path = _part(parts, start)
        if not path.is_file():
            continue
        try:
            lists = _read_part(path, ranker)
            if len(lists.items) != stop - start:
                raise ValueError(f"{len(lists.items)} lists, expected {stop - start}")
            done[start] = lists
        except (OSError, pa.ArrowException, ValueError, KeyError, InputError) as error:
            log.warning("WARNING: %s is damaged and ranked again: %s", path, error)
            if is_first():
                path.unlink()
    return done


@by_the_first
def write_lists(path: Path, ranker: Ranker, examples: Examples, lists: RankedLists) -> None:
    catalogue = ranker.catalogue
    named = lists.items >= 0  # places that free search left empty are out
    items = lists.items[named]
    offsets = pa.array(np.concatenate([[0], np.cumsum(named.sum(axis=1))]).astype(np.int32))
    columns: dict[str, Any] = {"user": catalogue.users.take(examples.users)}
    if (examples.targets >= 0).all():
        columns["target"] = catalogue.items.take(examples.targets)
    columns["items"] = pa.ListArray.from_arrays(offsets, catalogue.items.take(items))
    columns["scores"] = pa.ListArray.from_arrays(offsets, lists.scores[named])
    if catalogue.names and catalogue.names.has_titles:
        titles = pa.array(ranker.catalogue.titles(items), pa.string())
        columns["titles"] = pa.ListArray.from_arrays(offsets, titles)
    with whole_file(path) as draft:
        pq.write_table(pa.table(columns), draft)


def _read_part(path: Path, ranker: Ranker) -> RankedLists:
    """The item rows and scores of a part, as they were before it was written."""
    table = pq.read_table(path)
    shape = (table.num_rows, ranker.evaluate.top_k)
    lists = RankedLists(np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32))
    items = table["items"].combine_chunks()
    named = np.arange(shape[1]) < np.diff(items.offsets.to_numpy())[:, None]
    lists.items[named] = ranker.catalogue.items.rows(items.values.to_pylist())
    lists.scores[named] = table["scores"].combine_chunks().values.to_numpy()
    return lists


@by_the_first
def _publish(path: Path, folder: Path, parts: list[Path]) -> None:
    """One file of all parts, a part at a time, there whole or not at all."""
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
