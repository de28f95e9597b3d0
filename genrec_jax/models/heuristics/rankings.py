"""Rankings from sparse scores: [n, k] distinct item rows, best first, padded with -1."""

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from genrec_jax.data.sequences import Examples, UserSequences

ENTRIES = 4_000_000  # maximum size of a dense array of scores
TIE = 1e-9  # relative difference up to which scores are ties


def training_counts(sequences: UserSequences, n_excluded: int = 2) -> Int[np.ndarray, " N"]:
    """Return each item's interaction count, without each user's last `n_excluded` items."""
    return np.bincount(
        sequences.items[training_part(sequences, n_excluded)], minlength=sequences.n_items
    )


def training_part(sequences: UserSequences, n_excluded: int = 2) -> Int[np.ndarray, " kept"]:
    """Return the indices into `sequences.items` of all but each user's last `n_excluded` items."""
    ends = np.repeat(sequences.offsets[1:], sequences.lengths)
    return np.flatnonzero(ends - np.arange(len(sequences.items)) > n_excluded)


def by_popularity(counts: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Return all item rows by descending count; ties go to the smaller row."""
    return np.argsort(-counts, kind="stable")


def history_entries(
    examples: Examples, newest: int | None = None
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Return the items of all histories as flat arrays, each history with its newest item first.

    Args:
        examples: n histories.
        newest: the maximum number of most recent items per history; None: all items.

    Returns:
        For each of the E entries the index of its example, its item row, and its recency: the
        number of later items in the history.
    """
    lengths = examples.stops - examples.starts
    if newest is not None:
        lengths = np.minimum(lengths, newest)
    rows = np.repeat(np.arange(len(examples)), lengths)
    recency = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return rows, examples.items[np.repeat(examples.stops, lengths) - 1 - recency], recency


def top_items(scores: csr_array, order: Int[np.ndarray, " N"], k: int) -> Int[np.ndarray, "n k"]:
    """Return the k items with the highest positive scores of every row.

    Args:
        scores: sparse scores [n, N] without duplicate entries.
        order: all item rows; ties go to the item that comes first in this order.
        k: the length of a ranking.
    """
    n, n_items = len(scores.indptr) - 1, len(order)
    position = np.empty(n_items)
    position[order] = np.arange(n_items) / n_items
    keys = scores.data * (1.0 - TIE * position[scores.indices])
    rankings = np.full((n, k), -1, dtype=np.int32)
    # Rows of similar length share a dense array, to reduce padding.
    lengths = np.diff(scores.indptr)
    rows_by_length = np.argsort(lengths, kind="stable")
    start = 0
    while start < n:
        width = max(int(lengths[rows_by_length[min(start + 1024, n) - 1]]), k)
        rows = rows_by_length[start : min(start + 1024, n)][: max(ENTRIES // width, 1)]
        rankings[rows] = _best_of_rows(scores, keys, rows, width, k)
        start += len(rows)
    return rankings


def _best_of_rows(
    scores: csr_array, keys: np.ndarray, rows: Int[np.ndarray, " m"], width: int, k: int
) -> Int[np.ndarray, "m k"]:
    lengths = np.diff(scores.indptr)[rows]
    filled = np.arange(width) < lengths[:, None]  # [m, width]
    entries = np.concatenate([np.arange(*scores.indptr[row : row + 2]) for row in rows])
    dense = np.zeros(filled.shape)
    dense[filled] = keys[entries]
    items = np.full(filled.shape, -1, dtype=np.int32)
    items[filled] = scores.indices[entries]
    if width > k:
        best = np.argpartition(-dense, k - 1, axis=1)[:, :k]
        dense, items = (np.take_along_axis(a, best, axis=1) for a in (dense, items))
    ranked = np.argsort(-dense, axis=1, kind="stable")
    items = np.where(dense > 0, items, -1)
    return np.take_along_axis(items, ranked, axis=1)


def first_distinct(candidates: Int[np.ndarray, "n w"], k: int) -> Int[np.ndarray, "n k"]:
    """Return the first k distinct items of every row of candidates, skipping -1."""
    width = candidates.shape[1]
    order = np.argsort(candidates, axis=1, kind="stable")
    ordered = np.take_along_axis(candidates, order, axis=1)
    repeated = np.zeros(candidates.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    items = np.where(repeated, -1, candidates).astype(np.int32)
    items = np.take_along_axis(items, np.argsort(items < 0, axis=1, kind="stable"), axis=1)
    return np.pad(items, ((0, 0), (0, max(k - width, 0))), constant_values=-1)[:, :k]


def fill_up(
    rankings: Int[np.ndarray, "n k"], order: Int[np.ndarray, " N"], excluded: csr_array | None
) -> Int[np.ndarray, "n k"]:
    """Replace the padding of rankings by the first items of `order` that they do not contain.

    Args:
        rankings: item rows, best first, padded with -1.
        order: all item rows, best first.
        excluded: a sparse array [n, N] with an entry for every item that must not be added to the
            ranking of a row; None allows all items.
    """
    incomplete = np.flatnonzero((rankings < 0).any(axis=1))
    if not len(incomplete):
        return rankings
    k = rankings.shape[1]
    n_excluded = 0 if excluded is None else int(np.diff(excluded.indptr)[incomplete].max())
    filling = order[: 2 * k + n_excluded]
    candidates = np.tile(filling, (len(incomplete), 1))
    if excluded is not None:
        candidates[excluded[incomplete][:, filling].toarray() != 0] = -1
    filled = rankings.copy()
    filled[incomplete] = first_distinct(np.hstack([rankings[incomplete], candidates]), k)
    return filled
