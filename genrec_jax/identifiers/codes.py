"""Items written by codes: three symbols, each a token of its own, `<a_5><b_17><c_3>`.

Every level has its own alphabet of the same size, the smallest whose codes are enough for the
catalogue: 23 symbols for the 12,101 items of Beauty (23³ = 12,167). No two items have the same
code.

A code is a path in a tree over the items' vectors (code_tree.py), so that items which are near each
other begin alike. Items that nothing is known of get the codes that are left, by chance: among
themselves they tell nothing.
"""

import numpy as np
from jaxtyping import Float, Int

from genrec_jax.identifiers.code_tree import tree_codes

LEVELS = 3
LETTERS = "abc"  # of the levels


def alphabet_size(n_items: int) -> int:
    """The smallest a with a ** LEVELS ≥ n_items."""
    size = 1
    while size**LEVELS < n_items:
        size += 1
    return size


def deal_codes(
    n_items: int, vectors: Float[np.ndarray, "N d"] | None, seed: int
) -> Int[np.ndarray, "N levels"]:
    """A code for every item, by its vector; by chance where that is zero, or without vectors."""
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
    """Each code read as one number, the first symbol the highest digit."""
    return _as_numbers(codes, alphabet_size(len(codes)))


def code_names(codes: Int[np.ndarray, "N levels"]) -> list[str]:
    """How the items are written."""
    return [
        "".join(f"<{letter}_{symbol}>" for letter, symbol in zip(LETTERS, code, strict=True))
        for code in codes.tolist()
    ]


def code_symbols(n_items: int) -> list[str]:
    """All tokens that codes of so many items are made of, level by level."""
    return [
        f"<{letter}_{symbol}>" for letter in LETTERS for symbol in range(alphabet_size(n_items))
    ]


def likeness(
    vectors: Float[np.ndarray, "N d"], codes: Int[np.ndarray, "N levels"], symbols: int
) -> float:
    """The mean cosine of two different items whose codes begin with the same `symbols` symbols.

    Items of which nothing is known are left out; 0 where no two begin alike.
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
