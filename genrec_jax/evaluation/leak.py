"""Two permutation tests of whether the numbers of the items leak the test items.

A model that reads ids as text sees the item numbers, their BPE tokens, and the user's number. Four
statistics measure how much these reveal about the next item, over the users whose test item is not
in their history:

    next     share of users whose target has the largest number of the history + 1
    near     the same for the largest number + 1 to + 5
    tokens   share of the tokens of the target's identifier that the last item's identifier has too
    user     absolute correlation between the rank of the user's number among all users and the rank
             of the target's number among all items

**Test 1: randomly assigned numbers.** The null hypothesis is that the numbers were assigned to the
items at random. Then the observed statistics and those of B seeded permutations of the numbers are
B + 1 exchangeable draws. Each statistic is standardised over all B + 1 draws, a draw is represented
by the largest of its four statistics, and

    p = (number of draws at least as large as the observed one, which is included) / (B + 1)

is at most α with probability at most α under the null hypothesis. This holds exactly, for any data
and any dependence among the four statistics (Phipson and Smyth, 2010). With B = 999 and α = .001,
the observed draw must be the largest of all.

**Test 2: numbers assigned from training interactions.** Test 1 rightly rejects numbers by first
appearance in the training parts, and other numbers that depend on training interactions, because
they carry information about these. But such numbers cannot carry information about items without
any training interaction (*cold* items): the numbers of cold items are exchangeable. Test 2 permutes
only these numbers, over the users whose test item is cold, and has the same error bound. Numbers
that it rejects carry information about validation or test interactions, regardless of how they were
assigned.

The verdict is *leaks* if test 2 rejects the numbers, *informative* if only test 1 does (they are
informative about the test items, without evidence of leakage from validation or test interactions),
and *no evidence* otherwise. Random numbers get another verdict than *no evidence* with probability
at most 2 α. Numbers assigned from training interactions get the verdict *leaks* with probability at
most α. Test 2 is skipped if the targets include fewer than 7 different cold items, because it could
then hardly reject (6! < 1000).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from genrec_jax.data.sequences import Examples
from genrec_jax.evaluation.breakdown import is_repeat
from genrec_jax.models.heuristics.rankings import history_entries

NEAR = 5
LABELS = {  # the description of each statistic in reports
    "next": "largest number + 1",
    "near": f"largest number + 1 to + {NEAR}",
    "tokens": "tokens shared with the last item",
    "user": "correlation with the user's number",
}
STATISTICS = tuple(LABELS)
PERMUTATIONS = 999
ALPHA = 0.001  # significance level of both tests
FEWEST_COLD = 7  # minimum number of different cold targets for test 2

Verdict = Literal["leaks", "informative", "no evidence"]


@dataclass(frozen=True)
class Numbering:
    """The numbers of users and items, and the tokens of the items' identifiers.

    Attributes:
        user_numbers: the number of every user row.
        item_numbers: the number of every item row, all different.
        tokens: the distinct tokens of every item's identifier, padded with -1, without the tokens
            that all identifiers share.
    """

    user_numbers: Int[np.ndarray, " U"]
    item_numbers: Int[np.ndarray, " N"]
    tokens: Int[np.ndarray, "N P"]


@dataclass(frozen=True)
class PermutationTest:
    """The result of one permutation test."""

    users: int  # number of users whose test items were examined
    items: int  # number of items whose numbers were permuted
    observed: dict[str, float]  # each statistic of the actual numbers
    by_chance: dict[str, float]  # mean of each statistic over the permutations
    z: dict[str, float]  # (observed - mean) / standard deviation over the permutations
    p: float  # the p-value

    @property
    def rejects(self) -> bool:
        """Whether the test rejects the null hypothesis at the significance level ALPHA."""
        return self.p <= ALPHA


def informative_tokens(
    tokens: Int[np.ndarray, "N P"], lengths: Int[np.ndarray, " N"]
) -> Int[np.ndarray, "N Q"]:
    """Return each item's distinct tokens, without those that all items share (`Ġitem`, `_`).

    Args:
        tokens: the tokens of every item's identifier.
        lengths: the number of tokens of every identifier.

    Returns:
        The distinct tokens of each item, padded with -1.
    """
    distinct = np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, -1)
    distinct = np.sort(distinct, axis=1)
    distinct[:, 1:][distinct[:, 1:] == distinct[:, :-1]] = -1  # a token counts once per identifier
    values, counts = np.unique(distinct[distinct >= 0], return_counts=True)
    distinct[np.isin(distinct, values[counts == len(tokens)])] = -1
    distinct = -np.sort(-distinct, axis=1)
    return distinct[:, : max(int((distinct >= 0).sum(axis=1).max()), 1)].astype(np.int32)


def shared_tokens(
    first: Int[np.ndarray, "n P"], second: Int[np.ndarray, "n P"]
) -> Float[np.ndarray, " n"]:
    """Return the share of each row's tokens in `first` that the same row of `second` contains.

    A row of `first` without tokens has a share of 0.
    """
    shared = np.zeros(first.shape, dtype=bool)
    for column in range(second.shape[1]):
        shared |= first == second[:, column, None]
    is_token = first >= 0
    return (shared & is_token).sum(axis=1) / np.maximum(is_token.sum(axis=1), 1)


def new_targets(examples: Examples) -> Examples:
    """Return the examples whose history is not empty and does not contain the target."""
    has_history = examples.stops > examples.starts
    return examples.take(np.flatnonzero(~is_repeat(examples) & has_history))


def against_random_numbers(
    numbering: Numbering, examples: Examples, seed: int, permutations: int = PERMUTATIONS
) -> PermutationTest | None:
    """Run test 1, whose null hypothesis is that the numbers were randomly assigned.

    Args:
        numbering: the numbers to test.
        examples: the examples of the test split.
        seed: the seed of the permutations.
        permutations: the number of permutations.

    Returns:
        The result; None if all targets are in their histories.
    """
    return _permutation_test(
        numbering, new_targets(examples), np.arange(len(numbering.tokens)), seed, permutations
    )


def against_training_numbers(
    numbering: Numbering,
    examples: Examples,
    cold: Bool[np.ndarray, " N"],
    seed: int,
    permutations: int = PERMUTATIONS,
) -> PermutationTest | None:
    """Run test 2, whose null hypothesis is an assignment from training interactions.

    Args:
        numbering: the numbers to test.
        examples: the examples of the test split.
        cold: True for the items without training interactions.
        seed: the seed of the permutations.
        permutations: the number of permutations.

    Returns:
        The result; None if there are fewer than FEWEST_COLD cold targets.
    """
    examples = new_targets(examples)
    examples = examples.take(np.flatnonzero(cold[examples.targets]))
    if len(np.unique(examples.targets)) < FEWEST_COLD:
        return None
    return _permutation_test(numbering, examples, np.flatnonzero(cold), seed, permutations)


def verdict(first: PermutationTest | None, second: PermutationTest | None) -> Verdict:
    """Return the verdict from the results of tests 1 and 2, None for a test that was skipped."""
    if second is not None and second.rejects:
        return "leaks"
    return "informative" if first is not None and first.rejects else "no evidence"


def _permutation_test(
    numbering: Numbering,
    examples: Examples,
    permuted: Int[np.ndarray, " m"],
    seed: int,
    permutations: int,
) -> PermutationTest | None:
    """Compare the statistics with those after randomly permuting the given items' identifiers."""
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
    # Draws that differ only by rounding count as ties, which makes the test conservative.
    p = float((largest >= largest[0] - 1e-9).sum() / len(draws))
    observed, permuted_draws = draws[0], draws[1:]
    return PermutationTest(
        users=len(examples),
        items=len(permuted),
        observed=_named(observed),
        by_chance=_named(permuted_draws.mean(axis=0)),
        z=_named(_standardised(observed, permuted_draws)),
        p=p,
    )


class _Sample:
    """The examples with the data that do not depend on the permutation."""

    def __init__(self, numbering: Numbering, examples: Examples):
        self.numbering = numbering
        self.targets = examples.targets
        rows, self.entries, _ = history_entries(examples)  # each history's newest item first
        self.starts = np.searchsorted(rows, np.arange(len(examples)))
        self.last = self.entries[self.starts]
        self.user_ranks = _centred(_ranks(numbering.user_numbers)[examples.users])
        self.item_ranks = _ranks(numbering.item_numbers)

    def statistics(self, source: Int[np.ndarray, " N"]) -> Float[np.ndarray, " 4"]:
        """Return the four statistics when item i has the identifier of item source[i]."""
        numbers = self.numbering.item_numbers[source]
        targets = source[self.targets]
        largest = np.maximum.reduceat(numbers[self.entries], self.starts)
        above = self.numbering.item_numbers[targets] - largest
        tokens = self.numbering.tokens
        ranks = _centred(self.item_ranks[targets])
        return np.array(
            [
                (above == 1).mean(),
                ((above >= 1) & (above <= NEAR)).mean(),
                shared_tokens(tokens[targets], tokens[source[self.last]]).mean(),
                abs((self.user_ranks * ranks).sum()),  # faster than @, which starts threads
            ]
        )


def _ranks(numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return the rank of each number among all of them, from 0."""
    return np.argsort(np.argsort(numbers))


def _centred(values: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Scale to mean 0 and norm 1, so that the dot product of two vectors is their correlation."""
    centred = values - values.mean()
    return centred / max(float(np.sqrt((centred * centred).sum())), 1e-12)


def _standardised(values: np.ndarray, draws: Float[np.ndarray, "draws 4"]) -> np.ndarray:
    """Subtract the mean of the draws from each statistic and divide by their deviation."""
    deviation = draws.std(axis=0)
    # A statistic that is constant over all draws becomes 0.
    return (values - draws.mean(axis=0)) / np.where(deviation > 0, deviation, np.inf)


def _named(values: Float[np.ndarray, " 4"]) -> dict[str, float]:
    return dict(zip(STATISTICS, values.tolist(), strict=True))
