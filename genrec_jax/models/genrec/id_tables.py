"""The id tables of an exported run, in a file beside a BART that knows nothing of them.

`genrec_ids.safetensors` has eight tensors. For users (U rows; the same for items, with N rows):

    user_embedding   [U, D]    float32  row r is the vector of user r
    user_id_bytes    [bytes]   uint8    the ids of all users in UTF-8, one after the other
    user_id_offsets  [U + 1]   int64    id r is bytes[offsets[r] : offsets[r + 1]]
    user_numbers     [U]       int64    the text calls user r `user_` + str(user_numbers[r])

and this metadata:

    ids             "log": texts that a prepared log itself calls its users and items by;
                    "numbers": the whole numbers of a sequence file or of a named dataset
    dataset_name    of the dataset that the run was trained on; "" where unknown (a run of an
    dataset_sha256  older version)

Another run takes row r for the user or item with the same id, in whatever row it has it and
whatever number its text uses. All others start anew. Two rules keep rows from strangers:

- An id with a letter in it, as B000052YAN, means the same in every prepared log.
- An id without any letter, as 7 or 00017, is a number that many datasets count: 7 is an item of
  Beauty and another one of Sports. It means the same only in the same dataset (`dataset_sha256`),
  or in two prepared logs of the same name (`--config.name` of the preparation); the latter is
  logged as a warning. Otherwise its row starts anew, with a warning.

Texts of a log never equal numbers of a sequence file.
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
LOG, NUMBERS = "log", "numbers"  # what the ids are
IDS_IN_WORDS = {LOG: "texts of a prepared log", NUMBERS: "numbers of a dataset"}


@dataclass(frozen=True)
class IdTable:
    """The vectors of all users, or of all items: row r is that of ids[r]."""

    kind: str  # user or item
    vectors: Float[np.ndarray, "rows D"]
    ids: list[str]
    numbers: Int[np.ndarray, " rows"]  # what the text calls each, after `user_` or `item_`


@dataclass(frozen=True)
class IdTables:
    """Both tables of an exported folder, and whose ids they have."""

    ids_are: str  # LOG or NUMBERS
    dataset: DatasetId | None
    tables: tuple[IdTable, IdTable]  # users, items


def id_tables_of(
    catalogue: Catalogue, users: Float[np.ndarray, "U D"], items: Float[np.ndarray, "N D"]
) -> IdTables:
    """The tables of a run whose rows are those of the catalogue."""
    indexing = catalogue.indexing
    numbers = (indexing.user_numbers, indexing.item_numbers)
    rows = zip(KINDS, (users, items), id_texts(catalogue), numbers, strict=True)
    tables = [IdTable(kind, table, ids, np.asarray(n, np.int64)) for kind, table, ids, n in rows]
    return IdTables(_ids_are(catalogue), catalogue.dataset, (tables[0], tables[1]))


def write_id_tables(folder: Path, saved: IdTables) -> None:
    """Write the file into a folder that is there.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    tensors = {}
    for table in saved.tables:
        encoded = [one.encode() for one in table.ids]
        lengths = [len(one) for one in encoded]
        tensors |= {
            f"{table.kind}_embedding": np.ascontiguousarray(table.vectors),
            f"{table.kind}_id_bytes": np.frombuffer(b"".join(encoded), np.uint8),
            f"{table.kind}_id_offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            f"{table.kind}_numbers": np.ascontiguousarray(table.numbers),
        }
    known_by = saved.dataset or DatasetId("", "")
    metadata = {
        "format": "pt",
        "ids": saved.ids_are,
        "dataset_name": known_by.name,
        "dataset_sha256": known_by.sha256,
    }
    save_file(tensors, folder / FILE, metadata=metadata)


def read_id_tables(folder: Path, width: int) -> IdTables | None:
    """The tables of an exported folder.

    Args:
        folder: a checkpoint, perhaps one that export.py wrote.
        width: D.

    Returns:
        None for a folder without the file, and, with a warning, for a file of an older version,
        which does not say whose its rows are.

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
                "WARNING: %s is of an older version, which does not store the ids of the log that "
                "its rows belong to: both id tables start anew; export the run again to keep them",
                path,
            )
            return None
        if metadata["ids"] not in (LOG, NUMBERS):
            raise InputError(
                f"{path}: its metadata has ids={metadata['ids']!r}, expected {LOG} or {NUMBERS}"
            )
        known_by = DatasetId(metadata.get("dataset_name", ""), metadata.get("dataset_sha256", ""))
        users, items = (_read_table(file, path, kind, width) for kind in KINDS)
    finally:
        file.close()
    return IdTables(metadata["ids"], known_by if known_by.sha256 else None, (users, items))


def take_id_rows(
    folder: Path, catalogue: Catalogue, fresh: Mapping[str, Float[np.ndarray | Array, "_ D"]]
) -> dict[str, Float[np.ndarray, "_ D"]]:
    """The id tables to start from: the folder's row of every id that it has, else the fresh one.

    Args:
        folder: a checkpoint, perhaps one that export.py wrote.
        catalogue: of the run that starts.
        fresh: TABLES at their start, with the rows of the catalogue.

    Returns:
        TABLES; nothing where the folder has no tables that can be used.

    Raises:
        InputError: see `read_id_tables`.
    """
    saved = read_id_tables(folder, fresh[TABLES[0]].shape[1])
    if saved is None:
        return {}
    names = catalogue.indexing.user_names(), catalogue.indexing.item_names()
    result = {}
    renamed: list[tuple[str, str]] = []  # of the rows taken: the name here, the name there
    for table, ids, name_of in zip(saved.tables, id_texts(catalogue), names, strict=True):
        theirs = _matching_rows(table, ids, saved, catalogue, folder)
        ours = np.flatnonzero(theirs >= 0)
        vectors = np.array(fresh[f"{table.kind}_embedding"])  # a copy
        vectors[ours] = table.vectors[theirs[ours]]
        result[f"{table.kind}_embedding"] = vectors
        _log_counts(table.kind, len(ours), len(ids), folder, saved.dataset, catalogue.dataset)
        pairs = ((name_of[row], f"{table.kind}_{table.numbers[theirs[row]]}") for row in ours)
        renamed += [(here, there) for here, there in pairs if here != there]
    if renamed:
        log.info(
            "%d of these users and items are written differently in this run's text than in %s "
            "(such as %s, there %s): an id row belongs to the user or item, however it is written",
            *(len(renamed), folder, *renamed[-1]),
        )
    return result


# ------------------------------------------------------------------------------------ matching


def id_texts(catalogue: Catalogue) -> tuple[list[str], list[str]]:
    """The ids of users and of items as texts, by row."""
    users, items = (
        [str(one) for one in (ids.known if isinstance(ids.known, list) else ids.known.tolist())]
        for ids in (catalogue.users, catalogue.items)
    )
    return users, items


def _ids_are(catalogue: Catalogue) -> str:
    return LOG if catalogue.users.are_text else NUMBERS


def _matching_rows(
    table: IdTable, ids: Sequence[str], saved: IdTables, catalogue: Catalogue, folder: Path
) -> Int[np.ndarray, " rows"]:
    """The folder's row of every id of the catalogue, by the module's rules; -1: it starts anew."""
    if saved.ids_are != _ids_are(catalogue):
        log.warning(
            "WARNING: the %s ids of %s are %s, and here they are %s, which never mean the same",
            *(table.kind, folder, IDS_IN_WORDS[saved.ids_are], IDS_IN_WORDS[_ids_are(catalogue)]),
        )
        return np.full(len(ids), -1)
    row_of = {one: row for row, one in enumerate(table.ids)}
    rows = np.fromiter((row_of.get(one, -1) for one in ids), np.int64, len(ids))
    theirs, ours = saved.dataset, catalogue.dataset
    if theirs and ours and theirs.sha256 == ours.sha256:
        return rows
    letters = np.fromiter((any(map(str.isalpha, one)) for one in ids), bool, len(ids))
    doubtful = np.flatnonzero((rows >= 0) & ~letters)
    if not len(doubtful):
        return rows
    same_log = saved.ids_are == LOG and theirs and ours and theirs.name == ours.name
    if same_log:
        why = (
            "their rows are taken, since both logs have this name; if these are not the same "
            f"{table.kind}s, prepare one log under another name (--config.name)"
        )
    else:
        rows[doubtful] = -1
        why = "they start anew, since a number means another user or item in every dataset"
        if saved.ids_are == LOG:
            why += (
                f"; if these are the same {table.kind}s, prepare both logs under one name "
                "(--config.name)"
            )
    log.warning(
        "WARNING: %d %s ids without a letter, such as %r, are in dataset %s of %s and in dataset "
        "%s here: %s",
        *(len(doubtful), table.kind, ids[doubtful[0]], _name(theirs), folder, _name(ours), why),
    )
    return rows


def _name(dataset: DatasetId | None) -> str:
    return repr(dataset.name) if dataset else "(unknown)"


def _log_counts(
    kind: str,
    taken: int,
    rows: int,
    folder: Path,
    theirs: DatasetId | None,
    ours: DatasetId | None,
) -> None:
    line = f"{kind} table: {taken} of {rows} rows from {folder}, {rows - taken} start anew"
    if theirs is None or ours is None or theirs.sha256 != ours.sha256:
        line += f" (of dataset {_name(theirs)} there, {_name(ours)} here)"
    if taken:
        log.info("%s", line)
    else:
        log.warning("WARNING: %s", line)


# ------------------------------------------------------------------------------------ the file


def _read_table(file: SafetensorsFile, path: Path, kind: str, width: int) -> IdTable:
    """One table once everything about it is checked."""
    names = [f"{kind}_{part}" for part in ("embedding", "id_bytes", "id_offsets", "numbers")]
    missing = sorted(set(names) - set(file.names()))
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}")
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
                f"{path}: {name} is {found[0]} of shape {found[1]}, expected {dtype} of shape "
                f"{shape}"
            )
    vectors, encoded, offsets, numbers = (file.read(name) for name in names)
    if offsets[0] != 0 or offsets[-1] != length or (offsets[1:] < offsets[:-1]).any():
        raise InputError(
            f"{path}: {kind}_id_offsets do not cut the {length} bytes of {kind}_id_bytes, expected "
            f"numbers that rise from 0 to {length}"
        )
    content, bounds = encoded.tobytes(), offsets.tolist()
    try:
        ids = [content[start:stop].decode() for start, stop in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {kind}_id_bytes are not ids in UTF-8: {error}") from None
    if len(set(ids)) < rows:
        twice = Counter(ids).most_common(1)[0][0]
        raise InputError(f"{path}: found the {kind} {twice!r} twice, expected one row an id")
    not_finite = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(not_finite):
        raise InputError(
            f"{path}: {kind}_embedding has {len(not_finite)} rows with numbers that are not "
            f"finite, the first of {kind} {ids[not_finite[0]]!r}"
        )
    return IdTable(kind, vectors, ids, numbers)
