"""Does the numbering of the items leak the test items? Two permutation tests.

A model that reads ids as text sees the numbers, their pieces (BPE tokens), and the user's number.
Four statistics measure how much these reveal about the next item, over the users whose test item is
not in their history (an item of the history is known already):

    next     the target's number is the largest number of the history + 1
    near     … + 1 to + 5
    pieces   the share of the pieces of the target's identifier that the last item's also has
    user     the absolute correlation of the rank of the user's number among all users and the rank
             of the target's number among all items

**Test 1: against randomly assigned numbers.** If the numbers were assigned at random, permuting
them changes nothing: the observed statistics and those of B seeded permutations are B + 1
exchangeable draws. Each statistic is standardised over all B + 1 draws, a draw is represented by
the largest of its four, and

    p = (draws at least as large as the observed one, itself included) / (B + 1)

is at most α with probability at most α if the numbers carry no information. This holds exactly,
whatever the data and however the four statistics depend on each other (Phipson and Smyth, 2010).
With B = 999 and α = .001 the observed draw must be the largest of all.

**Test 2: against numbers made from training interactions.** Numbers by first appearance in the
training part, or any others made from training interactions and randomness, rightly fail the first
test: they carry information about the training interactions. They cannot carry information about
items without any training interaction (*cold* items), whose numbers are exchangeable among
themselves. The second test permutes only these numbers, over the users whose test item is cold; it
has the same error bound. A numbering that fails it carries information about validation or test
interactions: it leaks, whatever it was made from.

A numbering *leaks* if it fails the second test, is *informative* if it fails only the first, and
there is *no evidence* of leakage if it fails neither. A random numbering is classified otherwise
with probability at most 2 α, and one made from training interactions is classified as a leak with
probability at most α. The second test is skipped if fewer than 7 different cold items are targets,
because it could hardly fail then (6! < 1000).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from genrec_jax.data.sequences import Examples
from genrec_jax.evaluation.breakdown import is_repeat
from genrec_jax.models.heuristics.rankings import history_entries

NEAR = 5
LABELS = {
    "next": "largest number + 1",
    "near": f"largest number + 1 to + {NEAR}",
    "pieces": "name pieces shared with the last item",
    "user": "correlation with the user's number",
}
STATISTICS = tuple(LABELS)
PERMUTATIONS = 999
ALPHA = 0.001
FEWEST_COLD = 7

Verdict = Literal["leaks", "informative", "no evidence"]


@dataclass(frozen=True)
class Numbering:
    """The numbers of users and items, and the pieces of the items' identifiers.

    Attributes:
        user_numbers: the number of every user row.
        item_numbers: the number of every item row, all different.
        pieces: the distinct tokens of every item's identifier, -1 for padding; without the pieces
            that all identifiers share.
    """

    user_numbers: Int[np.ndarray, " U"]
    item_numbers: Int[np.ndarray, " N"]
    pieces: Int[np.ndarray, "N P"]


@dataclass(frozen=True)
class PermutationTest:
    """The result of one permutation test."""

    users: int  # users whose test items were examined
    items: int  # items whose numbers were permuted
    observed: dict[str, float]  # the observed statistics
    by_chance: dict[str, float]  # their means over the permutations
    z: dict[str, float]  # (observed - mean) / standard deviation over the permutations
    p: float

    @property
    def fails(self) -> bool:
        """Whether the numbering fails the test at the level ALPHA."""
        return self.p <= ALPHA


def informative_pieces(
    tokens: Int[np.ndarray, "N P"], lengths: Int[np.ndarray, " N"]
) -> Int[np.ndarray, "N Q"]:
    """Return each item's distinct tokens, without those of all items (`Ġitem`, `_`).

    Args:
        tokens: the tokens of every item's identifier.
        lengths: the number of its tokens.

    Returns:
        The distinct tokens of each item, then -1.
    """
    pieces = np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, -1)
    pieces = np.sort(pieces, axis=1)
    pieces[:, 1:][pieces[:, 1:] == pieces[:, :-1]] = -1  # a piece counts once per identifier
    distinct, counts = np.unique(pieces[pieces >= 0], return_counts=True)
    pieces[np.isin(pieces, distinct[counts == len(tokens)])] = -1
    pieces = -np.sort(-pieces, axis=1)
    return pieces[:, : max(int((pieces >= 0).sum(axis=1).max()), 1)].astype(np.int32)


def shared_pieces(
    one: Int[np.ndarray, "n P"], other: Int[np.ndarray, "n P"]
) -> Float[np.ndarray, " n"]:
    """Return the share of the pieces of `one` that `other` also has, per row; 0 without pieces."""
    shared = np.zeros(one.shape, dtype=bool)
    for column in range(other.shape[1]):
        shared |= one == other[:, column, None]
    is_piece = one >= 0
    return (shared & is_piece).sum(axis=1) / np.maximum(is_piece.sum(axis=1), 1)


def new_targets(examples: Examples) -> Examples:
    """Return the examples with a nonempty history that does not contain the target."""
    filled = examples.stops > examples.starts
    return examples.take(np.flatnonzero(~is_repeat(examples) & filled))


def against_any_numbering(
    numbering: Numbering, examples: Examples, seed: int, permutations: int = PERMUTATIONS
) -> PermutationTest | None:
    """Run test 1; returns None if every target is in its history.

    Args:
        numbering: the numbering to test.
        examples: the examples of the test split.
        seed: the seed of the permutations.
        permutations: the number of permutations.
    """
    return _test(
        numbering, new_targets(examples), np.arange(len(numbering.pieces)), seed, permutations
    )


def against_training_numbering(
    numbering: Numbering,
    examples: Examples,
    cold: Bool[np.ndarray, " N"],
    seed: int,
    permutations: int = PERMUTATIONS,
) -> PermutationTest | None:
    """Run test 2; returns None if there are too few cold items.

    Args:
        numbering: the numbering to test.
        examples: the examples of the test split.
        cold: whether each item has no training interaction.
        seed: the seed of the permutations.
        permutations: the number of permutations.
    """
    examples = new_targets(examples)
    examples = examples.take(np.flatnonzero(cold[examples.targets]))
    if len(np.unique(examples.targets)) < FEWEST_COLD:
        return None
    return _test(numbering, examples, np.flatnonzero(cold), seed, permutations)


def verdict(first: PermutationTest | None, second: PermutationTest | None) -> Verdict:
    """Return the verdict from the two tests, either of which may have been skipped."""
    if second is not None and second.fails:
        return "leaks"
    return "informative" if first is not None and first.fails else "no evidence"


def _test(
    numbering: Numbering,
    examples: Examples,
    permuted: Int[np.ndarray, " m"],
    seed: int,
    permutations: int,
) -> PermutationTest | None:
    """Compare the statistics with those after permuting the identifiers of some items."""
    if not len(examples):
        return None
    sample = _Sample(numbering, examples)
    rng = np.random.default_rng([seed, permutations])
    source = np.arange(len(numbering.item_numbers))
    draws = np.empty((permutations + 1, len(STATISTICS)))
    draws[0] = sample.statistics(source)
    for draw in range(1, permutations + 1):
        source[permuted] = rng.permutation(permuted)
        draws[draw] = sample.statistics(source)
    largest = _standardised(draws, draws).max(axis=1)
    # Draws that differ only by rounding count as equal, which makes the test conservative.
    p = float((largest >= largest[0] - 1e-9).sum() / len(draws))
    observed, chance = draws[0], draws[1:]
    return PermutationTest(
        users=len(examples),
        items=len(permuted),
        observed=_named(observed),
        by_chance=_named(chance.mean(axis=0)),
        z=_named(_standardised(observed, chance)),
        p=p,
    )


class _Sample:
    """The examples' data that all permutations share."""

    def __init__(self, numbering: Numbering, examples: Examples):
        self.numbering = numbering
        self.targets = examples.targets
        rows, self.entries, _ = history_entries(examples)  # the newest of every history first
        self.starts = np.searchsorted(rows, np.arange(len(examples)))
        self.last = self.entries[self.starts]
        self.user_ranks = _centred(_ranks(numbering.user_numbers)[examples.users])
        self.item_ranks = _ranks(numbering.item_numbers)

    def statistics(self, source: Int[np.ndarray, " N"]) -> Float[np.ndarray, " 4"]:
        """Return the four statistics if item i has the identifier of item source[i]."""
        numbers = self.numbering.item_numbers[source]
        targets = source[self.targets]
        largest = np.maximum.reduceat(numbers[self.entries], self.starts)
        above = self.numbering.item_numbers[targets] - largest
        pieces = self.numbering.pieces
        ranks = _centred(self.item_ranks[targets])
        return np.array(
            [
                (above == 1).mean(),
                ((above >= 1) & (above <= NEAR)).mean(),
                shared_pieces(pieces[targets], pieces[source[self.last]]).mean(),
                abs((self.user_ranks * ranks).sum()),  # faster than @, whose threads must start
            ]
        )


def _ranks(numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    return np.argsort(np.argsort(numbers))


def _centred(values: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Scale to mean 0 and length 1, so that the product of two vectors is their correlation."""
    centred = values - values.mean()
    return centred / max(float(np.sqrt((centred * centred).sum())), 1e-12)


def _standardised(values: np.ndarray, draws: Float[np.ndarray, "draws 4"]) -> np.ndarray:
    deviation = draws.std(axis=0)
    # A constant statistic carries no information.
    return (values - draws.mean(axis=0)) / np.where(deviation > 0, deviation, np.inf)


def _named(values: Float[np.ndarray, " 4"]) -> dict[str, float]:
    return dict(zip(STATISTICS, values.tolist(), strict=True))
