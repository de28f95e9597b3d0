"""Items as vectors: near each other where users take them together, or where their texts agree.

Both ways end in a truncated singular value decomposition of a sparse matrix with a row an item:

    collaborative   how often two items stand within a window of each other in the training part of
                    a user → positive pointwise mutual information (PPMI)
    text            how often a word or an attribute stands in an item's texts → TF-IDF

The vectors are U √S, each of length 1. An item that the matrix says nothing of has a row of zeros.
They are deterministic: the start of the iteration is seeded, every column has the sign that makes
its largest entry positive, and one thread adds up, so that the number of cores changes no bit. (Two
threads are slower besides: the work comes in small pieces.)
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

NOTHING = 1e-6  # of the longest row and of the largest singular value: not told from rounding
_WORD = re.compile(r"\w+")


def collaborative_vectors(
    sequences: UserSequences, dims: int, window: int, seed: int
) -> Float[np.ndarray, "N d"]:
    """From training interactions alone; d = dims, or less where there are fewer items.

    Args:
        sequences: whose last two items of every user are not looked at.
        dims: of the vectors, at most.
        window: two items are together at most so many places apart.
        seed: of the iteration's start.
    """
    return singular_vectors(ppmi(cooccurrences(sequences, window)), dims, seed)


def text_vectors(
    titles: Sequence[str | None], attributes: Sequence[Sequence[str] | None], dims: int, seed: int
) -> Float[np.ndarray, "N d"]:
    """From what the log says of every item; either may be () as a whole.

    Terms are the words of both, and an attribute of several words as a whole too.
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
    """Both, so that a cosine is 1 - weight parts of the first's and weight parts of the second's.

    An item that only one of them knows stands where that one puts it.
    """
    both = np.concatenate([first * np.sqrt(1 - weight), second * np.sqrt(weight)], axis=1)
    return _of_length_1(both.astype(np.float32))


def cooccurrences(sequences: UserSequences, window: int) -> sparse.csr_array:
    """[N, N] pairs of different items in the training part of a user, both ways round."""
    training = pretraining_examples(sequences)
    users = np.repeat(training.users, sequences.lengths)
    seen = np.arange(len(users)) < np.repeat(training.stops, sequences.lengths)
    items, users = sequences.items[seen], users[seen]
    shape = (sequences.n_items, sequences.n_items)
    counts = sparse.csr_array(shape, dtype=np.float64)
    for gap in range(1, window + 1):
        one, other = items[:-gap], items[gap:]
        together = (users[:-gap] == users[gap:]) & (one != other)
        pairs = (one[together], other[together])
        counts += sparse.csr_array((np.ones(len(pairs[0])), pairs), shape)
    return sparse.csr_array(counts + counts.T)


def ppmi(counts: sparse.csr_array) -> sparse.csr_array:
    """max(0, log P(i, j) / (P(i) P(j))) of symmetric counts, where there are any."""
    pairs = counts.tocoo()
    of_item = np.asarray(counts.sum(axis=1))
    expected = of_item[pairs.row] * of_item[pairs.col] / of_item.sum()
    values = np.log(pairs.data / expected)
    above = values > 0
    kept = (values[above], (pairs.row[above], pairs.col[above]))
    return sparse.csr_array(kept, shape=counts.shape)


def tf_idf(terms: Sequence[Sequence[str]]) -> sparse.csr_array:
    """[N, terms that at least two items have], rows of length 1.

    (1 + log how often) · log(N / items that have the term): a term of one item alone tells nothing
    of its neighbours, one that all have tells nothing at all.
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
    """U √S of the largest singular values, rows of length 1; d = 1 at least."""
    n_items, n_columns = cast(tuple[int, int], matrix.shape)
    smaller = min(n_items, n_columns)
    dims = min(dims, smaller - 1)
    if dims < 1 or not matrix.count_nonzero():
        return np.zeros((n_items, 1), np.float32)
    start = np.random.default_rng([seed, 0x5FD]).standard_normal(smaller)
    found: Any = svds(matrix, k=dims, v0=start)
    u, s, _ = found
    order = np.argsort(-s)
    order = order[s[order] > NOTHING * s.max()]
    vectors = u[:, order] * np.sqrt(s[order])
    peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(order))]
    return _of_length_1((vectors * np.sign(peaks)).astype(np.float32))


def _of_length_1(vectors: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N d"]:
    """Rows that are next to nothing become zeros: their direction would be that of rounding."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    there = length > NOTHING * length.max()
    return np.where(there, vectors / np.where(there, length, 1), 0).astype(np.float32)
