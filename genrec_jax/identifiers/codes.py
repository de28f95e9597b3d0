"""Codes as item identifiers: three symbols, each of which is one token, as in `<a_5><b_17><c_3>`.

The three alphabets have the same size, the smallest that gives all items different codes: 23
symbols for the 12,101 items of Beauty (23³ = 12,167).

A code is the path to the item in a tree over the item vectors (code_tree.py), so that similar items
share a prefix. Items without a vector receive unused codes at random, which carry no information.
"""

import numpy as np
from jaxtyping import Float, Int

from genrec_jax.identifiers.code_tree import tree_codes

LEVELS = 3
LETTERS = "abc"  # the letter of each level


def alphabet_size(n_items: int) -> int:
    """Return the smallest alphabet size with at least `n_items` codes, a ** LEVELS ≥ n_items."""
    size = 1
    while size**LEVELS < n_items:
        size += 1
    return size


def assign_codes(
    n_items: int, vectors: Float[np.ndarray, "N d"] | None, seed: int
) -> Int[np.ndarray, "N levels"]:
    """Assign a different code to every item.

    Args:
        n_items: N, the number of items.
        vectors: unit item vectors; an item whose vector is 0 gets a random code. None makes all
            codes random.
        seed: the seed of the tree and of the random codes.
    """
    alphabet = alphabet_size(n_items)
    rng = np.random.default_rng([seed, 0xC0D])
    known = np.zeros(n_items, dtype=bool) if vectors is None else vectors.any(axis=1)
    codes = np.zeros((n_items, LEVELS), dtype=np.int32)
    if vectors is not None and known.any():
        codes[known] = tree_codes(vectors[known], alphabet, LEVELS, seed)
    unused = np.setdiff1d(np.arange(alphabet**LEVELS), _as_numbers(codes[known], alphabet))
    chosen = rng.permutation(unused)[: (~known).sum()]
    for level in reversed(range(LEVELS)):
        chosen, codes[~known, level] = np.divmod(chosen, alphabet)
    return codes


def code_numbers(codes: Int[np.ndarray, "N levels"]) -> Int[np.ndarray, " N"]:
    """Return each code as a number whose most significant digit is the first symbol."""
    return _as_numbers(codes, alphabet_size(len(codes)))


def code_identifiers(codes: Int[np.ndarray, "N levels"]) -> list[str]:
    """Return the identifier of every item, such as `<a_5><b_17><c_3>`."""
    return [
        "".join(f"<{letter}_{symbol}>" for letter, symbol in zip(LETTERS, code, strict=True))
        for code in codes.tolist()
    ]


def code_symbols(n_items: int) -> list[str]:
    """Return all symbols needed for `n_items` items, level by level."""
    return [
        f"<{letter}_{symbol}>" for letter in LETTERS for symbol in range(alphabet_size(n_items))
    ]


def prefix_similarity(
    vectors: Float[np.ndarray, "N d"], codes: Int[np.ndarray, "N levels"], symbols: int
) -> float:
    """Return the mean cosine similarity of item pairs whose codes share a prefix.

    Args:
        vectors: unit item vectors; items whose vector is 0 are ignored.
        codes: the items' codes.
        symbols: the length of the shared prefix; 0 averages over all pairs.

    Returns:
        The mean over pairs; 0 if no two items share a prefix.
    """
    known = vectors.any(axis=1)
    numbers = _as_numbers(codes[known, :symbols], int(codes.max()) + 1)
    _, groups, sizes = np.unique(numbers, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), vectors.shape[1]))
    np.add.at(sums, groups, vectors[known])
    pairs = (sizes * (sizes - 1)).sum()
    return float(((sums * sums).sum() - sizes.sum()) / max(pairs, 1))


def _as_numbers(codes: Int[np.ndarray, "n levels"], alphabet: int) -> Int[np.ndarray, " n"]:
    numbers = np.zeros(len(codes), np.int64)
    for level in range(codes.shape[1]):
        numbers = numbers * alphabet + codes[:, level]
    return numbers
