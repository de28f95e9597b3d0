"""The item-transition kNN, which scores items by how often they follow items of the history.

    T[i, j]      number of times that j occurs up to `window` items after i in a training part, each
                 weighted by 1 / distance, plus `backward` times the same before i
    score of j   Σ over the `newest` last items i of the history, with r later items, of
                 decay^r / (1 + r)^power · T[i, j], divided by (training count of j)^popularity

Rankings with too few scored items are filled up by popularity.
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

CHUNK = 2048  # histories that are scored together, which bounds the memory


@dataclass(frozen=True)
class TransitionSettings:
    """The parameters of the formulas in the docstring of this module."""

    window: int = 5  # largest distance of two items in a transition
    backward: float = 0.5  # weight of transitions in reverse order
    newest: int = 20  # number of most recent history items used for scoring
    decay: float = 1.0  # base of the exponential decay over later items
    power: float = 1.0  # exponent of the polynomial decay over later items
    popularity: float = 0.5  # exponent of the popularity discount
    repeats: bool = False  # whether items of the history may be recommended

    def __str__(self) -> str:
        return (
            f"window {self.window}, decay {self.decay:g}, power {self.power:g}, "
            f"popularity exponent {self.popularity:g}, repeats {'in' if self.repeats else 'out'}"
        )


def transition_counts(
    sequences: UserSequences, window: int, backward: float, n_excluded: int = 2
) -> csr_array:
    """Return the transition matrix T [N, N] of the dataset.

    Args:
        sequences: the dataset.
        window: the largest distance of two items in a transition.
        backward: the weight of transitions in reverse order.
        n_excluded: the number of last items of every user that are not counted.
    """
    index = training_part(sequences, n_excluded)
    items = sequences.items[index]
    users = np.repeat(np.arange(sequences.n_users), sequences.lengths)[index]
    shape = (sequences.n_items, sequences.n_items)
    total = csr_array(shape, dtype=np.float64)
    for distance in range(1, window + 1):
        same = users[distance:] == users[:-distance]
        before, after = items[:-distance][same], items[distance:][same]
        weights = np.full(len(before), 1.0 / distance)
        total = total + csr_array((weights, (before, after)), shape=shape)
    return csr_array(total + backward * total.T)


class TransitionKNN:
    """The item-transition kNN of a dataset, which scores all items for given histories.

    Attributes:
        settings: the settings of the formulas.
        counts: the number of counted interactions of each item, [N].
    """

    def __init__(self, sequences: UserSequences, settings: TransitionSettings, n_excluded: int = 2):
        """Count the transitions and items of a dataset.

        Args:
            sequences: the dataset.
            settings: the settings of the formulas.
            n_excluded: the number of last items of every user that are not counted.
        """
        self.settings = settings
        self.counts = training_counts(sequences, n_excluded)
        self._table = transition_counts(sequences, settings.window, settings.backward, n_excluded)

    def scores(self, examples: Examples) -> csr_array:
        """Return sparse scores [n, N], positive for items with a transition from the history.

        If the settings exclude repeats, items of the history have no score.
        """
        scores = undiscounted_scores(self._table, examples, self.settings)
        scores = discounted(scores, self.counts, self.settings.popularity)
        if self.settings.repeats:
            return scores
        return without(scores, seen_items(examples, len(self.counts)))


def transition_rankings(
    sequences: UserSequences,
    examples: Examples,
    settings: TransitionSettings,
    top_k: int,
    n_excluded: int = 2,
) -> Int[np.ndarray, "n top_k"]:
    """Rank the items by the item-transition kNN.

    Args:
        sequences: the dataset whose transitions are counted.
        examples: the histories to rank for.
        settings: the kNN's settings, chosen by `evaluation.transition_settings`.
        top_k: the length of a ranking.
        n_excluded: the number of last items of every user that are not counted. 2 counts the
            training items; 1 also counts the validation items, for the test split only.
    """
    knn = TransitionKNN(sequences, settings, n_excluded)
    order = by_popularity(knn.counts)
    rankings = []
    for chunk in chunks(examples):
        seen = None if settings.repeats else seen_items(chunk, sequences.n_items)
        ranked = top_items(knn.scores(chunk), order, top_k)
        rankings.append(fill_up(ranked, order, seen))
    return np.concatenate(rankings)


def chunks(examples: Examples) -> Iterator[Examples]:
    """Yield the examples in order, in chunks of at most CHUNK."""
    for start in range(0, len(examples), CHUNK):
        yield examples.take(np.arange(start, min(start + CHUNK, len(examples))))


def undiscounted_scores(
    table: csr_array, examples: Examples, settings: TransitionSettings
) -> csr_array:
    """Return sparse scores [n, N] before the popularity discount, from the transition matrix."""
    rows, items, recency = history_entries(examples, settings.newest)
    weights = settings.decay**recency / (1.0 + recency) ** settings.power
    history = csr_array((weights, (rows, items)), shape=(len(examples), len(table.indptr) - 1))
    return csr_array(history @ table)


def discounted(scores: csr_array, counts: Int[np.ndarray, " N"], exponent: float) -> csr_array:
    """Return sparse scores [n, N], divided by each item's count to the power `exponent`."""
    # An item with a score has a count of at least 1, so the maximum only avoids 0 ** -exponent.
    factors = np.maximum(counts, 1.0) ** -exponent
    data = scores.data * factors[scores.indices]
    return csr_array((data, scores.indices, scores.indptr), shape=scores.shape)


def seen_items(examples: Examples, n_items: int) -> csr_array:
    """Return a sparse indicator array [n, N] of the items in each history."""
    rows, items, _ = history_entries(examples)
    return csr_array((np.ones(len(rows)), (rows, items)), shape=(len(examples), n_items))


def without(scores: csr_array, seen: csr_array) -> csr_array:
    """Return the scores with those of the seen items set to 0."""
    return csr_array(scores - scores.multiply(seen != 0))
