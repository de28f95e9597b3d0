"""The id tables of an exported run, stored in a separate file, since a BART has no id tables.

`genrec_ids.safetensors` has eight tensors. For the U users (and likewise for the N items):

    user_embedding   [U, D]    float32  row r is the vector of user r
    user_id_bytes    [bytes]   uint8    the concatenated ids of all users in UTF-8
    user_id_offsets  [U + 1]   int64    id r is bytes[offsets[r] : offsets[r + 1]]
    user_numbers     [U]       int64    the identifier of user r is `user_` + str(user_numbers[r])

and this metadata:

    ids             "log": the ids are strings of a prepared log;
                    "numbers": they are whole numbers of a sequence file or a named dataset
    dataset_name    the name and sha256 of the dataset that the run was trained on, or "" for a run
    dataset_sha256  of an older version, which did not store them

Another run takes row r for the user or item with the same id, whatever its row and number in that
run. Its remaining rows are initialised randomly. Two rules prevent a row from being given to
another user or item:

- An id with a letter, such as B000052YAN, denotes the same user or item in every prepared log.
- An id without a letter, such as 7 or 00017, is a number that many datasets use: item 7 of Beauty
  and item 7 of Sports differ. It denotes the same user or item only in the same dataset
  (`dataset_sha256`) or, with a warning, in two prepared logs of the same name (`--config.name` of
  the preparation). Otherwise its row is initialised randomly, with a warning.

A string of a log never equals a number of a sequence file.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float, Int
from safetensors.numpy import save_file

from genrec_jax.core.errors import InputError
from genrec_jax.data.identity import DatasetId
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.genrec.tensor_files import SafetensorsFile

log = logging.getLogger(__name__)

FILE = "genrec_ids.safetensors"
KINDS = ("user", "item")
TABLES = ("user_embedding", "item_embedding")
LOG, NUMBERS = "log", "numbers"  # values of `ids` in the metadata
IDS_IN_WORDS = {LOG: "strings of a prepared log", NUMBERS: "numbers of a dataset"}


@dataclass(frozen=True)
class IdTable:
    """The id table of all users, or of all items; row r belongs to ids[r]."""

    kind: str  # "user" or "item"
    vectors: Float[np.ndarray, "rows D"]
    ids: list[str]  # unique
    numbers: Int[np.ndarray, " rows"]  # the number in each identifier


@dataclass(frozen=True)
class IdTables:
    """Both id tables of an exported folder, with the kind and the dataset of their ids."""

    ids_are: str  # LOG or NUMBERS
    dataset: DatasetId | None  # None if unknown
    tables: tuple[IdTable, IdTable]  # users, items


def id_tables_of(
    catalogue: Catalogue, users: Float[np.ndarray, "U D"], items: Float[np.ndarray, "N D"]
) -> IdTables:
    """Combine the id tables of a run with the ids and numbers of their rows.

    Args:
        catalogue: the run's users and items, whose rows are the rows of the tables.
        users: the user table.
        items: the item table.
    """
    indexing = catalogue.indexing
    numbers = (indexing.user_numbers, indexing.item_numbers)
    rows = zip(KINDS, (users, items), id_texts(catalogue), numbers, strict=True)
    tables = [IdTable(kind, table, ids, np.asarray(n, np.int64)) for kind, table, ids, n in rows]
    return IdTables(_ids_are(catalogue), catalogue.dataset, (tables[0], tables[1]))


def write_id_tables(folder: Path, saved: IdTables) -> None:
    """Write FILE to an existing folder.

    Raises:
        OSError, SafetensorError: the file cannot be written.
    """
    tensors = {}
    for table in saved.tables:
        encoded = [id_text.encode() for id_text in table.ids]
        lengths = [len(id_bytes) for id_bytes in encoded]
        tensors |= {
            f"{table.kind}_embedding": np.ascontiguousarray(table.vectors),
            f"{table.kind}_id_bytes": np.frombuffer(b"".join(encoded), np.uint8),
            f"{table.kind}_id_offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            f"{table.kind}_numbers": np.ascontiguousarray(table.numbers),
        }
    dataset = saved.dataset or DatasetId("", "")
    metadata = {
        "format": "pt",
        "ids": saved.ids_are,
        "dataset_name": dataset.name,
        "dataset_sha256": dataset.sha256,
    }
    save_file(tensors, folder / FILE, metadata=metadata)


def read_id_tables(folder: Path, width: int) -> IdTables | None:
    """Read the id tables of an exported folder.

    Args:
        folder: the folder of a checkpoint, which need not be an export.
        width: D, the width of the model.

    Returns:
        The tables; None if the folder does not have FILE or, with a warning, if an older version
        wrote it, which did not store ids.

    Raises:
        InputError: the file is damaged, or its tables have another width.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    file = SafetensorsFile(path)
    try:
        metadata = file.metadata()
        if "ids" not in metadata:
            log.warning(
                "WARNING: %s was written by an older version, which did not store the ids of its "
                "rows: both id tables are initialised randomly; export the run again to use them",
                path,
            )
            return None
        if metadata["ids"] not in (LOG, NUMBERS):
            raise InputError(
                f"{path}: metadata.ids: found {metadata['ids']!r}, expected {LOG!r} or {NUMBERS!r}"
            )
        dataset = DatasetId(metadata.get("dataset_name", ""), metadata.get("dataset_sha256", ""))
        users, items = (_read_table(file, path, kind, width) for kind in KINDS)
    finally:
        file.close()
    return IdTables(metadata["ids"], dataset if dataset.sha256 else None, (users, items))


def take_id_rows(
    folder: Path, catalogue: Catalogue, fresh: Mapping[str, Float[np.ndarray | Array, "_ D"]]
) -> dict[str, Float[np.ndarray, "_ D"]]:
    """Return the initial id tables of a run, with the rows that a checkpoint has for its ids.

    Args:
        folder: the folder of a checkpoint, which need not be an export.
        catalogue: the users and items of the new run.
        fresh: the randomly initialised TABLES of the new run, by name; they are not changed.

    Returns:
        The TABLES by name; empty if the folder has no usable tables.

    Raises:
        InputError: the file is damaged, or its tables have another width.
    """
    saved = read_id_tables(folder, fresh[TABLES[0]].shape[1])
    if saved is None:
        return {}
    identifiers = catalogue.indexing.user_identifiers(), catalogue.indexing.item_identifiers()
    result = {}
    # The (new, exported) identifiers of users and items with another identifier in this run.
    renamed: list[tuple[str, str]] = []
    for table, ids, new in zip(saved.tables, id_texts(catalogue), identifiers, strict=True):
        theirs = _matching_rows(table, ids, saved, catalogue, folder)
        ours = np.flatnonzero(theirs >= 0)
        vectors = np.array(fresh[f"{table.kind}_embedding"])  # a copy
        vectors[ours] = table.vectors[theirs[ours]]
        result[f"{table.kind}_embedding"] = vectors
        _log_counts(table.kind, len(ours), len(ids), folder, saved.dataset, catalogue.dataset)
        pairs = ((new[row], f"{table.kind}_{table.numbers[theirs[row]]}") for row in ours)
        renamed += [pair for pair in pairs if pair[0] != pair[1]]
    if renamed:
        log.info(
            "%d of these users and items have another identifier in this run than in %s, such as "
            "%s instead of %s; rows are matched by id, not by identifier",
            *(len(renamed), folder, *renamed[-1]),
        )
    return result


# ------------------------------------------------------------------------------------ matching


def id_texts(catalogue: Catalogue) -> tuple[list[str], list[str]]:
    """Return the ids of users and of items as strings, by row."""
    users, items = (
        list(map(str, ids.known if isinstance(ids.known, list) else ids.known.tolist()))
        for ids in (catalogue.users, catalogue.items)
    )
    return users, items


def _ids_are(catalogue: Catalogue) -> str:
    return LOG if catalogue.users.are_text else NUMBERS


def _matching_rows(
    table: IdTable, ids: Sequence[str], saved: IdTables, catalogue: Catalogue, folder: Path
) -> Int[np.ndarray, " rows"]:
    """Match ids by the rules of the module's docstring.

    Returns:
        The exported row of each of the run's ids, -1 for none.
    """
    if saved.ids_are != _ids_are(catalogue):
        log.warning(
            "WARNING: the %s ids in %s are %s, but in this run they are %s: no rows are taken",
            *(table.kind, folder, IDS_IN_WORDS[saved.ids_are], IDS_IN_WORDS[_ids_are(catalogue)]),
        )
        return np.full(len(ids), -1)
    row_of = {id_text: row for row, id_text in enumerate(table.ids)}
    rows = np.fromiter((row_of.get(id_text, -1) for id_text in ids), np.int64, len(ids))
    theirs, ours = saved.dataset, catalogue.dataset
    if theirs and ours and theirs.sha256 == ours.sha256:
        return rows
    has_letter = np.fromiter((any(map(str.isalpha, text)) for text in ids), bool, len(ids))
    ambiguous = np.flatnonzero((rows >= 0) & ~has_letter)
    if not len(ambiguous):
        return rows
    same_log = saved.ids_are == LOG and theirs and ours and theirs.name == ours.name
    if same_log:
        why = (
            "their rows are taken because both logs have the same name; if they are different "
            f"{table.kind}s, prepare one of the logs with another --config.name"
        )
    else:
        rows[ambiguous] = -1
        why = (
            "their rows are initialised randomly, since the same number may denote different "
            f"{table.kind}s in different datasets"
        )
        if saved.ids_are == LOG:
            why += (
                f"; if they are the same {table.kind}s, prepare both logs with the same "
                "--config.name"
            )
    log.warning(
        "WARNING: %d %s ids without a letter, such as %r, are both in dataset %s of %s and in "
        "dataset %s of this run: %s",
        *(len(ambiguous), table.kind, ids[ambiguous[0]], _name(theirs), folder, _name(ours), why),
    )
    return rows


def _name(dataset: DatasetId | None) -> str:
    return repr(dataset.name) if dataset else "(name unknown)"


def _log_counts(
    kind: str,
    taken: int,
    rows: int,
    folder: Path,
    theirs: DatasetId | None,
    ours: DatasetId | None,
) -> None:
    """Log how many rows of a table are taken from the folder; warn if none are."""
    line = (
        f"{kind} table: {taken} of {rows} rows taken from {folder}, {rows - taken} initialised "
        "randomly"
    )
    if theirs is None or ours is None or theirs.sha256 != ours.sha256:
        line += f" (exported from dataset {_name(theirs)}, this run is on {_name(ours)})"
    if taken:
        log.info("%s", line)
    else:
        log.warning("WARNING: %s", line)


# ------------------------------------------------------------------------------------ the file


def _read_table(file: SafetensorsFile, path: Path, kind: str, width: int) -> IdTable:
    """Read one table.

    Raises:
        InputError: a tensor is missing or has another type, shape or content than the module's
            docstring states.
    """
    names = [f"{kind}_{part}" for part in ("embedding", "id_bytes", "id_offsets", "numbers")]
    missing = sorted(set(names) - set(file.names()))
    if missing:
        raise InputError(f"{path}: missing tensors: {', '.join(missing)}, expected an export's")
    rows = next(iter(file.shape(names[0])), 0)
    length = next(iter(file.shape(names[1])), 0)
    expected = (
        ("float32", (rows, width)),
        ("U8", (length,)),
        ("I64", (rows + 1,)),
        ("I64", (rows,)),
    )
    for name, (dtype, shape) in zip(names, expected, strict=True):
        found = file.dtype(name), file.shape(name)
        if found != (dtype, shape):
            raise InputError(
                f"{path}: {name}: found {found[0]} of shape {found[1]}, expected {dtype} of shape "
                f"{shape}"
            )
    vectors, encoded, offsets, numbers = (file.read(name) for name in names)
    if offsets[0] != 0 or offsets[-1] != length or (offsets[1:] < offsets[:-1]).any():
        raise InputError(
            f"{path}: {kind}_id_offsets: found {offsets[:3].tolist()} … {offsets[-1]}, expected "
            f"ascending numbers from 0 to {length}, the number of {kind}_id_bytes"
        )
    content, bounds = encoded.tobytes(), offsets.tolist()
    try:
        ids = [content[start:stop].decode() for start, stop in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {kind}_id_bytes: expected ids in UTF-8: {error}") from None
    if len(set(ids)) < rows:
        repeated = Counter(ids).most_common(1)[0][0]
        raise InputError(f"{path}: found {kind} {repeated!r} twice, expected one row per id")
    not_finite = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(not_finite):
        raise InputError(
            f"{path}: {kind}_embedding: found {len(not_finite)} rows with values that are not "
            f"finite, the first for {kind} {ids[not_finite[0]]!r}, expected finite values"
        )
    return IdTable(kind, vectors, ids, numbers)
