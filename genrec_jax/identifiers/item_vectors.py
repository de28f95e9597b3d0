"""Item vectors that are close for items that users have together, or that have similar texts.

Both kinds are a truncated singular value decomposition of a sparse matrix with a row per item:

    collaborative   counts of two items within a window in the training part of a user → positive
                    pointwise mutual information (PPMI)
    text            counts of words and attributes in an item's texts → TF-IDF

The vectors are U √S, scaled to length 1. An item without entries in the matrix has a row of zeros.
The result is deterministic: the start of the iteration is seeded, the sign of every column makes
its largest entry positive, and one thread computes all sums, so the number of cores changes no bit.
(Two threads would also be slower, since the work comes in small pieces.)
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

NEGLIGIBLE = 1e-6  # relative to the longest row or the largest singular value: rounding errors
_WORD = re.compile(r"\w+")


def collaborative_vectors(
    sequences: UserSequences, dims: int, window: int, seed: int
) -> Float[np.ndarray, "N d"]:
    """Compute vectors from training interactions alone.

    Args:
        sequences: the dataset; the last two items of every user are ignored.
        dims: d, the width of the vectors; smaller if there are fewer items.
        window: the largest distance at which two items of a sequence count as co-occurring.
        seed: the seed of the iteration's start.
    """
    return singular_vectors(ppmi(cooccurrences(sequences, window)), dims, seed)


def text_vectors(
    titles: Sequence[str | None], attributes: Sequence[Sequence[str] | None], dims: int, seed: int
) -> Float[np.ndarray, "N d"]:
    """Compute vectors from titles and attributes, either of which may be ().

    Terms are the words of both, and each attribute of several words as a whole.

    Args:
        titles: the title of every item, None for none.
        attributes: the attributes of every item, None for none.
        dims: d, the width of the vectors; smaller if there are fewer items.
        seed: the seed of the iteration's start.
    """
    n_items = max(len(titles), len(attributes))
    terms: list[list[str]] = []
    for title, some in zip(titles or [None] * n_items, attributes or [None] * n_items, strict=True):
        wholes = [_WORD.findall(text.casefold()) for text in some or ()]
        words = [_WORD.findall((title or "").casefold()), *wholes]
        terms.append([word for text in words for word in text])
        terms[-1] += [" ".join(whole) for whole in wholes if len(whole) > 1]
    return singular_vectors(tf_idf(terms), dims, seed)


def side_by_side(
    first: Float[np.ndarray, "N d"], second: Float[np.ndarray, "N e"], weight: float
) -> Float[np.ndarray, "N d_plus_e"]:
    """Concatenate two kinds of vectors so that cosines average with weights 1 - weight and weight.

    An item with only one kind of vector is represented by that one.
    """
    both = np.concatenate([first * np.sqrt(1 - weight), second * np.sqrt(weight)], axis=1)
    return _of_length_1(both.astype(np.float32))


def cooccurrences(sequences: UserSequences, window: int) -> sparse.csr_array:
    """Return symmetric counts [N, N] of different items within a window of a user's training part.

    Args:
        sequences: the dataset.
        window: the largest distance of two co-occurring items.
    """
    training = pretraining_examples(sequences)
    users = np.repeat(training.users, sequences.lengths)
    is_training = np.arange(len(users)) < np.repeat(training.stops, sequences.lengths)
    items, users = sequences.items[is_training], users[is_training]
    shape = (sequences.n_items, sequences.n_items)
    counts = sparse.csr_array(shape, dtype=np.float64)
    for gap in range(1, window + 1):
        one, other = items[:-gap], items[gap:]
        is_pair = (users[:-gap] == users[gap:]) & (one != other)
        pairs = (one[is_pair], other[is_pair])
        counts += sparse.csr_array((np.ones(len(pairs[0])), pairs), shape)
    return sparse.csr_array(counts + counts.T)


def ppmi(counts: sparse.csr_array) -> sparse.csr_array:
    """Return max(0, log P(i, j) / (P(i) P(j))) of symmetric counts, where they are positive."""
    pairs = counts.tocoo()
    of_item = np.asarray(counts.sum(axis=1))
    expected = of_item[pairs.row] * of_item[pairs.col] / of_item.sum()
    values = np.log(pairs.data / expected)
    above = values > 0
    kept = (values[above], (pairs.row[above], pairs.col[above]))
    return sparse.csr_array(kept, shape=counts.shape)


def tf_idf(terms: Sequence[Sequence[str]]) -> sparse.csr_array:
    """Return TF-IDF weights [N, terms of at least two items], rows of length 1.

    A weight is (1 + log count) · log(N / items with the term). A term of a single item relates it
    to no other item, and a term of all items has weight 0.
    """
    numbers: dict[str, int] = {}
    flat = [numbers.setdefault(term, len(numbers)) for one in terms for term in one]
    rows = np.repeat(np.arange(len(terms)), [len(one) for one in terms])
    shape = (len(terms), max(len(numbers), 1))
    counts = sparse.csr_array((np.ones(len(flat)), (rows, np.array(flat, dtype=np.int64))), shape)
    items_with = np.bincount(counts.indices, minlength=shape[1])
    counts.data = (1 + np.log(counts.data)) * np.log(len(terms) / items_with[counts.indices])
    counts = sparse.csr_array(counts[:, items_with > 1])
    length = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)))
    return sparse.csr_array(counts / np.where(length > 0, length, 1)[:, None])


@threadpool_limits.wrap(limits=1, user_api="blas")
def singular_vectors(matrix: sparse.csr_array, dims: int, seed: int) -> Float[np.ndarray, "N d"]:
    """Return U √S of the largest singular values, with rows of length 1 and at least one column."""
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
