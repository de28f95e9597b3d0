"""Does the numbering of the items give the test items away? Two permutation tests.

A model that writes ids as text sees the numbers, their name pieces (BPE tokens), and the user's
number. Four statistics say how much these tell about the next item, over the users whose test item
is not in their history (an item that is there has been written already):

    next     the target's number is the largest of the history + 1
    near     … + 1 to + 5
    pieces   share of the target's name pieces that stand in the last item's name too
    user     correlation, without its sign, of the rank of the user's number among all users' and
             the rank of the target's among all items'

**Against any numbering.** If the numbers were dealt out by chance, dealing them anew changes
nothing: the observed statistics and those of B seeded permutations are B + 1 exchangeable draws.
Each statistic is standardised over all B + 1, the largest of the four stands for the draw, and

    p = (draws as large as the observed one, itself included) / (B + 1)

is at most α with a probability of at most α if the numbers tell nothing, exactly, whatever the
data look like and however the four depend on each other (Phipson and Smyth, 2010). With B = 999
and α = .001 the observed draw has to be the largest of all.

**Against a numbering made from training interactions.** Numbers by first appearance in the
training part, or any made from training interactions and chance, fail the first test with every
right: they tell of the training interactions. But of the items without any training interaction
they can know nothing, so that *their* numbers are exchangeable among themselves. The second test
deals only these numbers anew, over the users whose test item is such a *cold* item; it has the same
bound. A numbering that fails it knows held-out interactions: a leak, whatever it was made from.

A numbering *leaks* if it fails the second, *tells* if it fails the first alone, and is *clean* if
it fails neither. So one dealt out by chance is called clean but for at most 2 α of all cases, and
one made from training interactions is said to leak in at most α of them. The second test is left
out where fewer than 7 different cold items are targets: it could hardly fail (6! < 1000).
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

Verdict = Literal["leaks", "tells", "clean"]


@dataclass(frozen=True)
class Written:
    """How users and items are written.

    Attributes:
        user_numbers: of every user row.
        item_numbers: of every item row, all different.
        pieces: [N, P] the tokens of every item's name, -1 for padding and for the pieces that all
            names share.
    """

    user_numbers: Int[np.ndarray, " U"]
    item_numbers: Int[np.ndarray, " N"]
    pieces: Int[np.ndarray, "N P"]


@dataclass(frozen=True)
class PermutationTest:
    """What was observed, what chance has, and how seldom chance has as much."""

    users: int  # whose test items were looked at
    items: int  # whose numbers were dealt anew
    observed: dict[str, float]
    by_chance: dict[str, float]  # the mean over the permutations
    z: dict[str, float]  # (observed - mean) / standard deviation of the permutations
    p: float

    @property
    def fails(self) -> bool:
        return self.p <= ALPHA


def telling_pieces(
    tokens: Int[np.ndarray, "N P"], lengths: Int[np.ndarray, " N"]
) -> Int[np.ndarray, "N Q"]:
    """Each item's different tokens but those that every name has (`Ġitem`, `_`); -1 behind them."""
    pieces = np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, -1)
    pieces = np.sort(pieces, axis=1)
    pieces[:, 1:][pieces[:, 1:] == pieces[:, :-1]] = -1  # a piece counts once a name
    found, counts = np.unique(pieces[pieces >= 0], return_counts=True)
    pieces[np.isin(pieces, found[counts == len(tokens)])] = -1
    pieces = -np.sort(-pieces, axis=1)
    return pieces[:, : max(int((pieces >= 0).sum(axis=1).max()), 1)].astype(np.int32)


def shared_pieces(
    one: Int[np.ndarray, "n P"], other: Int[np.ndarray, "n P"]
) -> Float[np.ndarray, " n"]:
    """The share of one's pieces that other has too, row by row; 0 where one has none."""
    shared = np.zeros(one.shape, dtype=bool)
    for column in range(other.shape[1]):
        shared |= one == other[:, column, None]
    there = one >= 0
    return (shared & there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)


def new_targets(examples: Examples) -> Examples:
    """Those whose target is not in the history, which must not be empty."""
    filled = examples.stops > examples.starts
    return examples.take(np.flatnonzero(~is_repeat(examples) & filled))


def against_any_numbering(
    written: Written, examples: Examples, seed: int, permutations: int = PERMUTATIONS
) -> PermutationTest | None:
    """The first test; None where every target is in its history."""
    return _test(written, new_targets(examples), np.arange(len(written.pieces)), seed, permutations)


def against_training_numbering(
    written: Written,
    examples: Examples,
    cold: Bool[np.ndarray, " N"],
    seed: int,
    permutations: int = PERMUTATIONS,
) -> PermutationTest | None:
    """The second test; None where there are too few cold items for it.

    Args:
        written: the numbering.
        examples: of the test split.
        cold: items without a training interaction.
        seed: of the permutations.
        permutations: how many.
    """
    examples = new_targets(examples)
    examples = examples.take(np.flatnonzero(cold[examples.targets]))
    dealt = np.unique(examples.targets)
    if len(dealt) < FEWEST_COLD:
        return None
    return _test(written, examples, np.flatnonzero(cold), seed, permutations)


def verdict(first: PermutationTest | None, second: PermutationTest | None) -> Verdict:
    """From the two tests, of which either may not have been possible."""
    if second is not None and second.fails:
        return "leaks"
    return "tells" if first is not None and first.fails else "clean"


def _test(
    written: Written,
    examples: Examples,
    dealt: Int[np.ndarray, " m"],
    seed: int,
    permutations: int,
) -> PermutationTest | None:
    """Deals the names of the items `dealt` anew, `permutations` times."""
    if not len(examples):
        return None
    sample = _Sample(written, examples)
    rng = np.random.default_rng([seed, permutations])
    source = np.arange(len(written.item_numbers))
    draws = np.empty((permutations + 1, len(STATISTICS)))
    draws[0] = sample.statistics(source)
    for draw in range(1, permutations + 1):
        source[dealt] = rng.permutation(dealt)
        draws[draw] = sample.statistics(source)
    largest = _standardised(draws, draws).max(axis=1)
    # Draws that are equal but for rounding count as equal, against the finding of a leak.
    p = float((largest >= largest[0] - 1e-9).sum() / len(draws))
    observed, chance = draws[0], draws[1:]
    return PermutationTest(
        users=len(examples),
        items=len(dealt),
        observed=_named(observed),
        by_chance=_named(chance.mean(axis=0)),
        z=_named(_standardised(observed, chance)),
        p=p,
    )


class _Sample:
    """What the statistics of some users need, looked up once for all permutations."""

    def __init__(self, written: Written, examples: Examples):
        self.written = written
        self.targets = examples.targets
        rows, self.entries, _ = history_entries(examples)  # the newest of every history first
        self.starts = np.searchsorted(rows, np.arange(len(examples)))
        self.last = self.entries[self.starts]
        self.user_ranks = _centred(_ranks(written.user_numbers)[examples.users])
        self.item_ranks = _ranks(written.item_numbers)

    def statistics(self, source: Int[np.ndarray, " N"]) -> Float[np.ndarray, " 4"]:
        """The four, where item row i is written as row source[i] is."""
        numbers = self.written.item_numbers[source]
        targets = source[self.targets]
        largest = np.maximum.reduceat(numbers[self.entries], self.starts)
        above = self.written.item_numbers[targets] - largest
        pieces = self.written.pieces
        ranks = _centred(self.item_ranks[targets])
        return np.array(
            [
                (above == 1).mean(),
                ((above >= 1) & (above <= NEAR)).mean(),
                shared_pieces(pieces[targets], pieces[source[self.last]]).mean(),
                abs((self.user_ranks * ranks).sum()),  # not @: its threads take longer to start
            ]
        )


def _ranks(numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    return np.argsort(np.argsort(numbers))


def _centred(values: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """With mean 0 and length 1, so that a product of two is their correlation."""
    centred = values - values.mean()
    return centred / max(float(np.sqrt((centred * centred).sum())), 1e-12)


def _standardised(values: np.ndarray, draws: Float[np.ndarray, "draws 4"]) -> np.ndarray:
    spread = draws.std(axis=0)
    # A statistic that never moves tells nothing.
    return (values - draws.mean(axis=0)) / np.where(spread > 0, spread, np.inf)


def _named(values: Float[np.ndarray, " 4"]) -> dict[str, float]:
    return dict(zip(STATISTICS, values.tolist(), strict=True))
