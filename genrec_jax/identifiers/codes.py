"""Codes as item identifiers: three symbols, each a token, `<a_5><b_17><c_3>`.

Every level has its own alphabet of the same size, the smallest that gives all items different
codes: 23 symbols for the 12,101 items of Beauty (23³ = 12,167).

A code is a path in a tree over the items' vectors (code_tree.py), so that similar items share a
prefix. Items of which nothing is known receive the unused codes at random, which carry no
information about them.
"""

import numpy as np
from jaxtyping import Float, Int

from genrec_jax.identifiers.code_tree import tree_codes

LEVELS = 3
LETTERS = "abc"  # the letter of each level


def alphabet_size(n_items: int) -> int:
    """Return the smallest a with a ** LEVELS ≥ n_items."""
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
        vectors: item vectors of length 1; an item with a vector of 0 gets a random code. None: all
            codes are random.
        seed: the seed of the tree and of random codes.
    """
    alphabet = alphabet_size(n_items)
    rng = np.random.default_rng([seed, 0xC0D])
    known = np.zeros(n_items, dtype=bool) if vectors is None else vectors.any(axis=1)
    codes = np.zeros((n_items, LEVELS), dtype=np.int32)
    if vectors is not None and known.any():
        codes[known] = tree_codes(vectors[known], alphabet, LEVELS, seed)
    free = np.setdiff1d(np.arange(alphabet**LEVELS), _as_numbers(codes[known], alphabet))
    chosen = rng.permutation(free)[: (~known).sum()]
    for level in reversed(range(LEVELS)):
        chosen, codes[~known, level] = np.divmod(chosen, alphabet)
    return codes


def code_numbers(codes: Int[np.ndarray, "N levels"]) -> Int[np.ndarray, " N"]:
    """Return each code as a number, with the first symbol as the highest digit."""
    return _as_numbers(codes, alphabet_size(len(codes)))


def code_identifiers(codes: Int[np.ndarray, "N levels"]) -> list[str]:
    """Return the identifier of every item, such as `<a_5><b_17><c_3>`."""
    return [
        "".join(f"<{letter}_{symbol}>" for letter, symbol in zip(LETTERS, code, strict=True))
        for code in codes.tolist()
    ]


def code_symbols(n_items: int) -> list[str]:
    """Return all symbols of codes of `n_items` items, level by level."""
    return [
        f"<{letter}_{symbol}>" for letter in LETTERS for symbol in range(alphabet_size(n_items))
    ]


def prefix_similarity(
    vectors: Float[np.ndarray, "N d"], codes: Int[np.ndarray, "N levels"], symbols: int
) -> float:
    """Return the mean cosine of pairs of items whose codes share their first `symbols` symbols.

    Items with a vector of 0 are ignored; the result is 0 if no two items share a prefix.
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
