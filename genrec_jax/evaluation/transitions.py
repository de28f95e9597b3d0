"""A line to beat: what usually comes after the items of the history, counted, with nothing learned.

    T[i, j]      how often j came up to `window` items after i in the training part, each time
                 weighted 1 / distance; plus `backward` times how often it came before i
    score of j   Σ over the history's newest items i of decay^r / (1 + r)^power · T[i, j],
                 r items having come after i; divided by (training count of j)^popularity

Popularity fills up what T leaves empty. The few settings are chosen by how they rank the
validation targets, with T and counts from all but the last three items of every user; the test
targets play no part in it.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from genrec_jax.data.sequences import (
    VALIDATION_HOLDOUT,
    Examples,
    UserSequences,
    next_item_examples,
)
from genrec_jax.evaluation.metrics import metric_sums
from genrec_jax.evaluation.rankings import (
    by_popularity,
    fill_up,
    history_entries,
    top_items,
    training_counts,
    training_part,
)

CHOSEN_BY = "NDCG@10"
VALIDATION_USERS = 10_000  # a seeded sample of at most so many chooses the settings
# At the test the newest item of a history, the validation item, is in no count. So that the choice
# is made as it will be used, one item more than the validation target is left out of T here.
CHOOSING_HOLDOUT = 3
CHUNK = 2048  # users whose scores are held at once


@dataclass(frozen=True)
class TransitionSettings:
    """The defaults are a plain item-transition kNN; see the formulas above."""

    window: int = 5
    backward: float = 0.5
    newest: int = 20  # items of the history that vote
    decay: float = 1.0
    power: float = 1.0
    popularity: float = 0.5
    repeats: bool = False  # whether items of the history may be recommended

    def __str__(self) -> str:
        return (
            f"window {self.window}, decay {self.decay:g}, power {self.power:g}, "
            f"popularity exponent {self.popularity:g}, repeats {'in' if self.repeats else 'out'}"
        )


WINDOWS = (5, 10)
FADING = ((1.0, 1.0), (0.6, 0.0), (0.8, 0.0))  # decay, power
POPULARITIES = (0.0, 0.125, 0.25)


def transition_counts(
    sequences: UserSequences, window: int, backward: float, holdout: int = 2
) -> csr_array:
    """T, [N, N], from all but the last `holdout` items of every user."""
    places = training_part(sequences, holdout)
    items = sequences.items[places]
    users = np.repeat(np.arange(sequences.n_users), sequences.lengths)[places]
    shape = (sequences.n_items, sequences.n_items)
    total = csr_array(shape, dtype=np.float64)
    for distance in range(1, window + 1):
        same = users[distance:] == users[:-distance]
        before, after = items[:-distance][same], items[distance:][same]
        weights = np.full(len(before), 1.0 / distance)
        total = total + csr_array((weights, (before, after)), shape=shape)
    return csr_array(total + backward * total.T)


class TransitionKNN:
    """T and the counts of a training part, ready to score histories.

    Attributes:
        counts: of each item, [N].
    """

    def __init__(self, sequences: UserSequences, settings: TransitionSettings, holdout: int = 2):
        """T and the counts are from all but the last `holdout` items of every user."""
        self.settings = settings
        self.counts = training_counts(sequences, holdout)
        self._table = transition_counts(sequences, settings.window, settings.backward, holdout)

    def scores(self, examples: Examples) -> csr_array:
        """[n, N], above 0 for the items that T leads to; without those seen if `repeats` is off."""
        votes = _scores(self._table, examples, self.settings)
        scores = _discount(votes, self.counts, self.settings.popularity)
        if self.settings.repeats:
            return scores
        return _without(scores, seen_items(examples, len(self.counts)))


def transition_lists(
    sequences: UserSequences,
    examples: Examples,
    settings: TransitionSettings,
    top_k: int,
    holdout: int = 2,
) -> Int[np.ndarray, "n top_k"]:
    """Ranked lists for some examples.

    Args:
        sequences: what T and the counts are taken from.
        examples: the histories.
        settings: see `choose_settings`.
        top_k: length of a list.
        holdout: T and the counts are from all but the last so many items of every user: 2, what
            training may see; 1 counts the validation items too (for the test split only).
    """
    knn = TransitionKNN(sequences, settings, holdout)
    order = by_popularity(knn.counts)
    lists = []
    for chunk in chunks(examples):
        seen = None if settings.repeats else seen_items(chunk, sequences.n_items)
        ranked = top_items(knn.scores(chunk), order, top_k)
        lists.append(fill_up(ranked, order, seen))
    return np.concatenate(lists)


def choose_settings(
    sequences: UserSequences, seed: int = 0, *, exclude_history: bool = False
) -> TransitionSettings:
    """The best of a small grid by validation NDCG@10; a sample of users on large datasets.

    Args:
        sequences: the dataset.
        seed: of the sample.
        exclude_history: consider only settings that leave out the items of the history; otherwise
            the validation decides about that too.
    """
    examples = next_item_examples(sequences, VALIDATION_HOLDOUT)
    if len(examples) > VALIDATION_USERS:
        rng = np.random.default_rng([seed, VALIDATION_USERS])
        examples = examples.take(
            np.sort(rng.choice(len(examples), VALIDATION_USERS, replace=False))
        )
    counts = training_counts(sequences, CHOOSING_HOLDOUT)
    reached: dict[TransitionSettings, float] = {}
    for window in WINDOWS:
        base = TransitionSettings(window=window)
        table = transition_counts(sequences, window, base.backward, CHOOSING_HOLDOUT)
        for decay, power in FADING:
            voting = replace(base, decay=decay, power=power)
            for chunk in chunks(examples):
                for settings, ranks in _ranks(table, chunk, counts, voting, exclude_history):
                    gain = metric_sums(ranks, 10)[CHOSEN_BY]
                    reached[settings] = reached.get(settings, 0.0) + gain
    return max(reached, key=lambda settings: reached[settings])


def _ranks(
    table: csr_array,
    examples: Examples,
    counts: Int[np.ndarray, " N"],
    voting: TransitionSettings,
    exclude_history: bool,
) -> Iterator[tuple[TransitionSettings, Float[np.ndarray, " n"]]]:
    """The target's rank for every popularity exponent, without repeats and with, if they may be.

    Lists are not needed for that: the rank is one more than the scores above the target's.
    """
    raw = _scores(table, examples, voting)
    without = _without(raw, seen_items(examples, len(counts)))
    allowed = (False,) if exclude_history else (False, True)
    for popularity, repeats in itertools.product(POPULARITIES, allowed):
        scores = _discount(raw if repeats else without, counts, popularity)
        targets = np.asarray(scores[np.arange(len(examples)), examples.targets])
        rows = np.repeat(np.arange(len(examples)), np.diff(scores.indptr))
        above = np.bincount(rows[scores.data > targets[rows]], minlength=len(examples))
        ranks = np.where(targets > 0, above + 1.0, np.inf)
        yield replace(voting, popularity=popularity, repeats=repeats), ranks


def chunks(examples: Examples) -> Iterator[Examples]:
    """The examples in order, at most CHUNK at a time."""
    for start in range(0, len(examples), CHUNK):
        yield examples.take(np.arange(start, min(start + CHUNK, len(examples))))


def _scores(table: csr_array, examples: Examples, settings: TransitionSettings) -> csr_array:
    """[n, N] before the division by popularity."""
    rows, items, recency = history_entries(examples, settings.newest)
    weights = settings.decay**recency / (1.0 + recency) ** settings.power
    votes = csr_array((weights, (rows, items)), shape=(len(examples), len(table.indptr) - 1))
    return csr_array(votes @ table)


def _discount(scores: csr_array, counts: Int[np.ndarray, " N"], exponent: float) -> csr_array:
    # An item with a score has been counted.
    factors = np.maximum(counts, 1.0) ** -exponent
    data = scores.data * factors[scores.indices]
    return csr_array((data, scores.indices, scores.indptr), shape=scores.shape)


def seen_items(examples: Examples, n_items: int) -> csr_array:
    """[n, N], an entry for every item of a history."""
    rows, items, _ = history_entries(examples)
    return csr_array((np.ones(len(rows)), (rows, items)), shape=(len(examples), n_items))


def _without(scores: csr_array, seen: csr_array) -> csr_array:
    """The scores of items that were not seen; those of the others are 0."""
    return csr_array(scores - scores.multiply(seen != 0))
