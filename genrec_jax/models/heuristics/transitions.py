"""The item-transition kNN: what usually follows the items of the history, counted and not learned.

    T[i, j]      how often j came up to `window` items after i in the training part, each time
                 weighted 1 / distance; plus `backward` times how often it came before i
    score of j   Σ over the history's newest items i of decay^r / (1 + r)^power · T[i, j],
                 r items having come after i; divided by (training count of j)^popularity

Popularity fills up what T leaves empty.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from genrec_jax.data.sequences import Examples, UserSequences
from genrec_jax.models.heuristics.rankings import (
    by_popularity,
    fill_up,
    history_entries,
    top_items,
    training_counts,
    training_part,
)

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
        scores = votes(self._table, examples, self.settings)
        scores = discounted(scores, self.counts, self.settings.popularity)
        if self.settings.repeats:
            return scores
        return without(scores, seen_items(examples, len(self.counts)))


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
        settings: of the kNN; `evaluation.transition_settings` chooses them.
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


def chunks(examples: Examples) -> Iterator[Examples]:
    """The examples in order, at most CHUNK at a time."""
    for start in range(0, len(examples), CHUNK):
        yield examples.take(np.arange(start, min(start + CHUNK, len(examples))))


def votes(table: csr_array, examples: Examples, settings: TransitionSettings) -> csr_array:
    """[n, N] before the division by popularity."""
    rows, items, recency = history_entries(examples, settings.newest)
    weights = settings.decay**recency / (1.0 + recency) ** settings.power
    by_item = csr_array((weights, (rows, items)), shape=(len(examples), len(table.indptr) - 1))
    return csr_array(by_item @ table)


def discounted(scores: csr_array, counts: Int[np.ndarray, " N"], exponent: float) -> csr_array:
    # An item with a score has been counted.
    factors = np.maximum(counts, 1.0) ** -exponent
    data = scores.data * factors[scores.indices]
    return csr_array((data, scores.indices, scores.indptr), shape=scores.shape)


def seen_items(examples: Examples, n_items: int) -> csr_array:
    """[n, N], an entry for every item of a history."""
    rows, items, _ = history_entries(examples)
    return csr_array((np.ones(len(rows)), (rows, items)), shape=(len(examples), n_items))


def without(scores: csr_array, seen: csr_array) -> csr_array:
    """The scores of items that were not seen; those of the others are 0."""
    return csr_array(scores - scores.multiply(seen != 0))
