"""Ranked lists from scores: [n, k] item rows, best first, each item once, -1 for an empty place."""

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from genrec_jax.data.sequences import Examples, UserSequences

ENTRIES = 4_000_000  # scores that are laid out at once
TIE = 1e-9  # scores whose relative difference is smaller count as equal


def training_counts(sequences: UserSequences, holdout: int = 2) -> Int[np.ndarray, " N"]:
    """Interactions of each item in all but the last `holdout` items of every user."""
    return np.bincount(
        sequences.items[training_part(sequences, holdout)], minlength=sequences.n_items
    )


def training_part(sequences: UserSequences, holdout: int = 2) -> Int[np.ndarray, " kept"]:
    """The places of sequences.items that are not among the last `holdout` items of their user."""
    to_come = np.repeat(sequences.offsets[1:], sequences.lengths) - np.arange(len(sequences.items))
    return np.flatnonzero(to_come > holdout)


def by_popularity(counts: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """All items, the most frequent first; ties go to the smaller row."""
    return np.argsort(-counts, kind="stable")


def history_entries(
    examples: Examples, newest: int | None = None
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Every item of every history as (example, item, how many items came after it).

    Args:
        examples: n histories.
        newest: how many items of a history count, from its end; None: all.
    """
    lengths = examples.stops - examples.starts
    if newest is not None:
        lengths = np.minimum(lengths, newest)
    rows = np.repeat(np.arange(len(examples)), lengths)
    recency = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rows, examples.items[np.repeat(examples.stops, lengths) - 1 - recency], recency


def top_items(scores: csr_array, order: Int[np.ndarray, " N"], k: int) -> Int[np.ndarray, "n k"]:
    """The k items with the highest score above 0 of every row.

    Args:
        scores: [n, N], no entry twice.
        order: all items; of those with equal scores the one that stands here first is preferred.
        k: length of a list.
    """
    n, n_items = len(scores.indptr) - 1, len(order)
    place = np.empty(n_items)
    place[order] = np.arange(n_items) / n_items
    keys = scores.data * (1.0 - TIE * place[scores.indices])
    lists = np.full((n, k), -1, dtype=np.int32)
    # Rows of like lengths are laid out together, so that the layout has little padding.
    lengths = np.diff(scores.indptr)
    rows_by_length = np.argsort(lengths, kind="stable")
    start = 0
    while start < n:
        width = max(int(lengths[rows_by_length[min(start + 1024, n) - 1]]), k)
        rows = rows_by_length[start : min(start + 1024, n)][: max(ENTRIES // width, 1)]
        lists[rows] = _best_of_rows(scores, keys, rows, width, k)
        start += len(rows)
    return lists


def _best_of_rows(
    scores: csr_array, keys: np.ndarray, rows: Int[np.ndarray, " m"], width: int, k: int
) -> Int[np.ndarray, "m k"]:
    lengths = np.diff(scores.indptr)[rows]
    filled = np.arange(width) < lengths[:, None]  # [m, width]
    entries = np.concatenate([np.arange(*scores.indptr[row : row + 2]) for row in rows])
    laid_out = np.zeros(filled.shape)
    laid_out[filled] = keys[entries]
    items = np.full(filled.shape, -1, dtype=np.int32)
    items[filled] = scores.indices[entries]
    if width > k:
        best = np.argpartition(-laid_out, k - 1, axis=1)[:, :k]
        laid_out, items = (np.take_along_axis(a, best, axis=1) for a in (laid_out, items))
    ranked = np.argsort(-laid_out, axis=1, kind="stable")
    items = np.where(laid_out > 0, items, -1)
    return np.take_along_axis(items, ranked, axis=1)


def first_different(candidates: Int[np.ndarray, "n w"], k: int) -> Int[np.ndarray, "n k"]:
    """The first k different items of every row; -1 among the candidates is nothing."""
    width = candidates.shape[1]
    order = np.argsort(candidates, axis=1, kind="stable")
    ordered = np.take_along_axis(candidates, order, axis=1)
    repeated = np.zeros(candidates.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    items = np.where(repeated, -1, candidates).astype(np.int32)
    items = np.take_along_axis(items, np.argsort(items < 0, axis=1, kind="stable"), axis=1)
    return np.pad(items, ((0, 0), (0, max(k - width, 0))), constant_values=-1)[:, :k]


def fill_up(
    lists: Int[np.ndarray, "n k"], order: Int[np.ndarray, " N"], left_out: csr_array | None
) -> Int[np.ndarray, "n k"]:
    """The empty places taken by the first items of `order` that the list does not hold yet.

    Args:
        lists: ranked lists.
        order: all items, best first.
        left_out: [n, N]; items with an entry in a row are not for that row's list.
    """
    short = np.flatnonzero((lists < 0).any(axis=1))
    if not len(short):
        return lists
    k = lists.shape[1]
    barred = 0 if left_out is None else int(np.diff(left_out.indptr)[short].max())
    filling = order[: 2 * k + barred]
    candidates = np.tile(filling, (len(short), 1))
    if left_out is not None:
        candidates[left_out[short][:, filling].toarray() != 0] = -1
    filled = lists.copy()
    filled[short] = first_different(np.hstack([lists[short], candidates]), k)
    return filled
