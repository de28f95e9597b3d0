"""A model's item probabilities mixed with those of the item-transition kNN, over all items.

    linear        p(j)     = (1 - w) · p_model(j) + w · p_knn(j)
    log-linear    log p(j) = (1 - w) · log p_model(j) + w · log p_knn(j) + a constant of the user
    p_knn(j)      = (1 - o) · [(1 - f) · s(j) / Σ s + f · (c(j) + 1) / Σ (c + 1)] + o · p_own(j)
    p_own(j)      ∝ Σ over the places of j in the history of 1 / (1 + r), r items after it

with s the kNN's scores (models/heuristics) and c the training counts: no item has probability
0: f is the floor's share, 1 for a history that T leads nowhere from. o is the share of the user's
own history: 0 where its items are left out. A weight of 0 is the model's own order, 1 that of
p_knn; ties go to the smaller row.

Way, weight and shares are those with the best validation NDCG@10. For that T is counted without the
last three items of every user, for the test without the last two: either way the newest item of a
history is in no count, as `choose_settings` has it.

Memory is bounded by the chunks that the model's scores come in. Axes: n examples of a chunk,
N items, k length of a list.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from genrec_jax.data.sequences import Examples, UserSequences
from genrec_jax.evaluation.metrics import metric_sums
from genrec_jax.evaluation.transition_settings import CHOOSING_HOLDOUT, CHOSEN_BY
from genrec_jax.models.heuristics.rankings import history_entries
from genrec_jax.models.heuristics.transitions import TransitionKNN, TransitionSettings, seen_items

# (rows of the examples [n], log-probability of every item [n, N]), each example in one chunk
ScoreChunks = Iterable[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n N"]]]

MODEL, KNN, LINEAR, LOG_LINEAR = "model", "kNN", "linear", "log-linear"
CUTOFF = 10  # of CHOSEN_BY


@dataclass(frozen=True)
class Mix:
    """How two distributions become one."""

    way: str  # MODEL and KNN are one of the two alone
    weight: float = 0.0  # of the kNN
    floor: float = 0.0  # share of popularity in p_knn; MODEL has none
    own: float = 0.0  # share of the user's own history in p_knn

    def __str__(self) -> str:
        if self.way == MODEL:
            return "the model alone"
        weight = f", weight {self.weight:g}" if self.way in (LINEAR, LOG_LINEAR) else " alone"
        own = f", own history {self.own:g}" if self.own else ""
        return f"{self.way}{weight}, floor {self.floor:g}{own}"


FLOORS = (0.01, 0.1)
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
NEW_ITEMS = (  # tried where items of the history are left out
    Mix(MODEL),
    *(Mix(KNN, 1.0, floor) for floor in FLOORS),
    *(
        Mix(way, weight, floor)
        for way in (LINEAR, LOG_LINEAR)
        for floor in FLOORS
        for weight in WEIGHTS
    ),
)
OWN = (0.1, 0.2, 0.4)
ALL_ITEMS = (  # tried where items may come again
    *NEW_ITEMS,
    *(Mix(KNN, 1.0, FLOORS[0], own) for own in OWN),
    *(Mix(LINEAR, weight, FLOORS[0], own) for own in OWN for weight in WEIGHTS),
)


def choose_mix(
    scores: ScoreChunks,
    sequences: UserSequences,
    examples: Examples,
    settings: TransitionSettings,
    exclude_history: bool,
) -> tuple[Mix, dict[Mix, float]]:
    """The mix with the best validation NDCG@10 of those that are tried, and that of each.

    Args:
        scores: the model's, for `examples`.
        sequences: what the kNN counts.
        examples: of the validation split.
        settings: of the kNN.
        exclude_history: whether items of the history are left out.
    """
    knn = _knn(sequences, settings, exclude_history, CHOOSING_HOLDOUT)
    sums = dict.fromkeys(NEW_ITEMS if exclude_history else ALL_ITEMS, 0.0)
    sides = sorted({(mix.floor, mix.own) for mix in sums if mix.way != MODEL})
    for rows, model in scores:
        chunk = examples.take(rows)
        model = _without_history(model, chunk, exclude_history)
        for side in sides:
            votes = knn_distribution(knn, chunk, *side)
            votes = _without_history(votes, chunk, exclude_history)
            hopeful = _can_be_hits(model, votes, chunk.targets)
            pair = (model[hopeful], votes[hopeful])
            for mix in sums:
                if (mix.floor, mix.own) == side or (mix.way == MODEL and side == sides[0]):
                    ranks = ranks_among(mixed(*pair, mix), chunk.targets[hopeful])
                    sums[mix] += metric_sums(ranks, CUTOFF)[CHOSEN_BY]
    curve = {mix: total / len(examples) for mix, total in sums.items()}
    return max(curve, key=lambda mix: curve[mix]), curve


def mixed_lists(
    scores: ScoreChunks,
    sequences: UserSequences,
    examples: Examples,
    settings: TransitionSettings,
    exclude_history: bool,
    mixes: Iterable[Mix],
    top_k: int,
) -> dict[Mix, tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]]:
    """Ranked lists of each mix: items, -1 where there are fewer, and their scores.

    Args:
        scores: the model's, for `examples`.
        sequences: what the kNN counts, all but the last two items of every user.
        examples: the histories.
        settings: of the kNN.
        exclude_history: whether items of the history are left out.
        mixes: what to rank by.
        top_k: length of a list.
    """
    knn = _knn(sequences, settings, exclude_history, holdout=2)
    shape = (len(examples), top_k)
    lists = {
        mix: (np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32)) for mix in mixes
    }
    for rows, model in scores:
        chunk = examples.take(rows)
        model = _without_history(model, chunk, exclude_history)
        for mix, (items, best) in lists.items():
            votes = model
            if mix.way != MODEL:
                votes = knn_distribution(knn, chunk, mix.floor, mix.own)
                votes = _without_history(votes, chunk, exclude_history)
            items[rows], best[rows] = best_of_rows(mixed(model, votes, mix), top_k)
    return lists


def knn_distribution(
    knn: TransitionKNN, examples: Examples, floor: float, own: float = 0.0
) -> Float[np.ndarray, "n N"]:
    """log p_knn; see the formulas above."""
    scores = knn.scores(examples)
    popularity = (knn.counts + 1.0) / (knn.counts + 1.0).sum()
    totals = np.asarray(scores.sum(axis=1)).reshape(-1)
    floors = np.where(totals > 0, floor, 1.0)
    result = (np.log(floors)[:, None] + np.log(popularity)).astype(np.float32)
    # Every score is positive: only histories without a total have none.
    rows = np.repeat(np.arange(len(examples)), np.diff(scores.indptr))
    found = (1.0 - floors[rows]) * scores.data / totals[rows]
    result[rows, scores.indices] = np.log(found + floors[rows] * popularity[scores.indices])
    return _with_own_history(result, examples, own) if own else result


def _with_own_history(
    votes: Float[np.ndarray, "n N"], examples: Examples, share: float
) -> Float[np.ndarray, "n N"]:
    """log of (1 - share) · p + share · p_own; p for an empty history."""
    rows, items, recency = history_entries(examples)
    weights = csr_array((1.0 / (1.0 + recency), (rows, items)), shape=votes.shape)
    weights.sum_duplicates()
    totals = np.asarray(weights.sum(axis=1)).reshape(-1)
    shares = np.where(totals > 0, share, 0.0)
    rows = np.repeat(np.arange(len(votes)), np.diff(weights.indptr))
    result = votes + np.log1p(-shares).astype(np.float32)[:, None]
    again = np.exp(result[rows, weights.indices]) + share * weights.data / totals[rows]
    result[rows, weights.indices] = np.log(again)
    return result


def mixed(
    model: Float[np.ndarray, "n N"], knn: Float[np.ndarray, "n N"], mix: Mix
) -> Float[np.ndarray, "n N"]:
    """Log-probabilities, of LOG_LINEAR less a constant of each example; -inf stays -inf."""
    if mix.way == MODEL:
        return model
    if mix.way == KNN:
        return knn
    if mix.way == LOG_LINEAR:
        return np.float32(1.0 - mix.weight) * model + np.float32(mix.weight) * knn
    # In logarithms, so that no probability is too small for a float.
    return np.logaddexp(
        model + np.float32(np.log1p(-mix.weight)), knn + np.float32(np.log(mix.weight))
    )


def ranks_among(
    scores: Float[np.ndarray, "n N"], targets: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """The place of each target among all items, from 1; infinity where it is left out."""
    own = scores[np.arange(len(targets)), targets]
    above = (scores > own[:, None]).sum(axis=1)
    before = np.arange(scores.shape[1]) < targets[:, None]
    equal = ((scores == own[:, None]) & before).sum(axis=1)
    return np.where(np.isneginf(own), np.inf, 1.0 + above + equal)


def best_of_rows(
    scores: Float[np.ndarray, "n N"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """The k best items of each row and their scores; -1 and -inf where there are fewer."""
    n, n_items = scores.shape
    taken = min(k, n_items)
    last = np.partition(scores, n_items - taken, axis=1)[:, n_items - taken][:, None]
    above, level = scores > last, scores == last
    room = taken - above.sum(axis=1, keepdims=True)
    # A row of levels is counted only where not all of them fit.
    tight = np.flatnonzero(level.sum(axis=1) > room[:, 0])
    level[tight] &= np.cumsum(level[tight], axis=1) <= room[tight]
    items = np.nonzero(above | level)[1].reshape(n, taken)
    best = np.take_along_axis(scores, items, axis=1)
    order = np.argsort(-best, axis=1, kind="stable")
    items, best = (np.take_along_axis(array, order, axis=1) for array in (items, best))
    items = np.where(np.isneginf(best), -1, items).astype(np.int32)
    padding = ((0, 0), (0, k - taken))
    return (
        np.pad(items, padding, constant_values=-1),
        np.pad(best, padding, constant_values=-np.inf),
    )


def _knn(
    sequences: UserSequences, settings: TransitionSettings, exclude_history: bool, holdout: int
) -> TransitionKNN:
    repeats = settings.repeats and not exclude_history
    return TransitionKNN(sequences, replace(settings, repeats=repeats), holdout)


def _without_history(
    scores: Float[np.ndarray, "n N"], examples: Examples, exclude_history: bool
) -> Float[np.ndarray, "n N"]:
    """-inf for the items of each history, if they are to be left out."""
    if not exclude_history:
        return scores
    seen = seen_items(examples, scores.shape[1])
    left = scores.copy()
    left[np.repeat(np.arange(len(examples)), np.diff(seen.indptr)), seen.indices] = -np.inf
    return left


def _can_be_hits(
    model: Float[np.ndarray, "n N"], knn: Float[np.ndarray, "n N"], targets: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """False where CUTOFF items are above the target in both: they are in every mix."""
    rows = np.arange(len(targets))
    above = model > model[rows, targets][:, None]
    above &= knn > knn[rows, targets][:, None]
    return above.sum(axis=1) < CUTOFF
