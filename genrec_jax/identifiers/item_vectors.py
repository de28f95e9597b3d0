"""Item vectors from co-occurrence in training sequences, or from titles and attributes.

Both kinds are a truncated singular value decomposition of a sparse matrix with a row per item:

    collaborative   co-occurrence counts of items within a window of a user's training sequence,
                    weighted by positive pointwise mutual information (PPMI)
    text            counts of the words and attributes of an item, weighted by TF-IDF

The vectors are U √S, scaled to length 1. An item without entries in the matrix has a row of zeros.
The result is deterministic: the start vector of the iteration is seeded, the sign of every column
makes its largest entry positive, and a single thread computes all sums, so that the number of cores
does not change a bit. (Two threads would also be slower, because the operations are small.)
"""

import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from scipy import sparse
from scipy.sparse.linalg import svds
from threadpoolctl import threadpool_limits

from genrec_jax.data.sequences import UserSequences, pretraining_examples

NEGLIGIBLE = 1e-6  # of the longest row or largest singular value; below are rounding errors
_WORD = re.compile(r"\w+")


def collaborative_vectors(
    sequences: UserSequences, dims: int, window: int, seed: int
) -> Float[np.ndarray, "N d"]:
    """Compute item vectors from the training interactions only.

    Args:
        sequences: the dataset; the last two items of every user are ignored.
        dims: d, the width of the vectors; reduced if there are fewer items.
        window: the largest distance at which two items of a sequence co-occur.
        seed: the seed of the decomposition's start vector.
    """
    return singular_vectors(ppmi(cooccurrences(sequences, window)), dims, seed)


def text_vectors(
    titles: Sequence[str | None], attributes: Sequence[Sequence[str] | None], dims: int, seed: int
) -> Float[np.ndarray, "N d"]:
    """Compute item vectors from titles and attributes.

    Terms are the words of both, and each attribute of several words as a whole.

    Args:
        titles: the title of every item, None for an item without one; () if there are no titles.
        attributes: the attributes of every item, None for an item without any; () if there are no
            attributes.
        dims: d, the width of the vectors; reduced if there are fewer items.
        seed: the seed of the decomposition's start vector.
    """
    n_items = max(len(titles), len(attributes))
    terms: list[list[str]] = []
    for title, texts in zip(
        titles or [None] * n_items, attributes or [None] * n_items, strict=True
    ):
        phrases = [_WORD.findall(text.casefold()) for text in texts or ()]
        words = [_WORD.findall((title or "").casefold()), *phrases]
        terms.append([word for group in words for word in group])
        terms[-1] += [" ".join(phrase) for phrase in phrases if len(phrase) > 1]
    return singular_vectors(tf_idf(terms), dims, seed)


def side_by_side(
    first: Float[np.ndarray, "N d"], second: Float[np.ndarray, "N e"], weight: float
) -> Float[np.ndarray, "N d_plus_e"]:
    """Concatenate two kinds of unit vectors so that their cosines are averaged.

    Args:
        first: unit vectors, or 0 for items without one.
        second: unit vectors of the other kind, or 0 for items without one.
        weight: the weight of the cosines of `second`; those of `first` have 1 - weight. An item
            with only one kind of vector is represented by that one.
    """
    both = np.concatenate([first * np.sqrt(1 - weight), second * np.sqrt(weight)], axis=1)
    return _of_length_1(both.astype(np.float32))


def cooccurrences(sequences: UserSequences, window: int) -> sparse.csr_array:
    """Count co-occurrences of different items in the training sequences.

    Args:
        sequences: the dataset.
        window: the largest distance at which two items of a sequence co-occur.

    Returns:
        Symmetric counts [N, N].
    """
    training = pretraining_examples(sequences)
    users = np.repeat(training.users, sequences.lengths)
    is_training = np.arange(len(users)) < np.repeat(training.stops, sequences.lengths)
    items, users = sequences.items[is_training], users[is_training]
    shape = (sequences.n_items, sequences.n_items)
    counts = sparse.csr_array(shape, dtype=np.float64)
    for distance in range(1, window + 1):
        earlier, later = items[:-distance], items[distance:]
        is_pair = (users[:-distance] == users[distance:]) & (earlier != later)
        pairs = (earlier[is_pair], later[is_pair])
        counts += sparse.csr_array((np.ones(len(pairs[0])), pairs), shape)
    return sparse.csr_array(counts + counts.T)


def ppmi(counts: sparse.csr_array) -> sparse.csr_array:
    """Return the positive pointwise mutual information, max(0, log P(i, j) / (P(i) P(j))).

    Args:
        counts: symmetric co-occurrence counts [N, N].
    """
    pairs = counts.tocoo()
    totals = np.asarray(counts.sum(axis=1))
    expected = totals[pairs.row] * totals[pairs.col] / totals.sum()
    information = np.log(pairs.data / expected)
    is_positive = information > 0
    kept = (information[is_positive], (pairs.row[is_positive], pairs.col[is_positive]))
    return sparse.csr_array(kept, shape=counts.shape)


def tf_idf(terms: Sequence[Sequence[str]]) -> sparse.csr_array:
    """Return TF-IDF weights (1 + log count) · log(N / items with the term), rows of length 1.

    A term of a single item is dropped because it relates the item to no other; a term of all items
    has weight 0.

    Args:
        terms: the terms of every item, with repetitions.

    Returns:
        Weights [N, terms of at least two items].
    """
    columns: dict[str, int] = {}
    flat = [columns.setdefault(term, len(columns)) for of_item in terms for term in of_item]
    rows = np.repeat(np.arange(len(terms)), [len(of_item) for of_item in terms])
    shape = (len(terms), max(len(columns), 1))
    counts = sparse.csr_array((np.ones(len(flat)), (rows, np.array(flat, dtype=np.int64))), shape)
    items_with = np.bincount(counts.indices, minlength=shape[1])
    counts.data = (1 + np.log(counts.data)) * np.log(len(terms) / items_with[counts.indices])
    counts = sparse.csr_array(counts[:, items_with > 1])
    length = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)))
    return sparse.csr_array(counts / np.where(length > 0, length, 1)[:, None])


@threadpool_limits.wrap(limits=1, user_api="blas")
def singular_vectors(matrix: sparse.csr_array, dims: int, seed: int) -> Float[np.ndarray, "N d"]:
    """Return U √S of the largest singular values, scaled to rows of length 1.

    Args:
        matrix: a sparse matrix with N rows.
        dims: the maximum number of singular values.
        seed: the seed of the start vector.

    Returns:
        Vectors with 1 to `dims` columns; all 0 if the matrix has no entries.
    """
    n_items, n_columns = cast(tuple[int, int], matrix.shape)
    smaller = min(n_items, n_columns)
    dims = min(dims, smaller - 1)
    if dims < 1 or not matrix.count_nonzero():
        return np.zeros((n_items, 1), np.float32)
    start = np.random.default_rng([seed, 0x5FD]).standard_normal(smaller)
    decomposition: Any = svds(matrix, k=dims, v0=start)
    u, s, _ = decomposition
    order = np.argsort(-s)
    order = order[s[order] > NEGLIGIBLE * s.max()]
    vectors = u[:, order] * np.sqrt(s[order])
    peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(order))]
    return _of_length_1((vectors * np.sign(peaks)).astype(np.float32))


def _of_length_1(vectors: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N d"]:
    """Scale rows to length 1; negligible rows, whose direction is a rounding error, become 0."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    is_known = length > NEGLIGIBLE * length.max()
    return np.where(is_known, vectors / np.where(is_known, length, 1), 0).astype(np.float32)
