"""Ensembles of a model and the item-transition kNN, which combine their item probabilities.

    linear        p(j)     = (1 - w) · p_model(j) + w · p_knn(j)
    log-linear    log p(j) = (1 - w) · log p_model(j) + w · log p_knn(j) + constant of the example
    p_knn(j)      = (1 - h) · [(1 - s) · t(j) / Σ t + s · (c(j) + 1) / Σ (c + 1)] + h · p_hist(j)
    p_hist(j)     ∝ Σ over occurrences of j in the history of 1 / (1 + r), with r later items

Here t are the kNN's scores (models/heuristics) and c the training counts. The smoothing s gives
every item a positive probability; it is 1 for a history without any transition. The history weight
h is the weight of the user's own history; it is 0 if the items of the history are excluded. With
the weight w = 0 the ensemble is the model, with w = 1 it is p_knn. Ties go to the smaller item row.

Combination method, weight, smoothing and history weight maximise the validation NDCG@10.
Transitions are counted without the last three items of every user for validation, and without the
last two for the test. In both cases, the newest item of a history is not counted, as in
`choose_settings`.

The size of the chunks of model scores bounds the memory. Axes: n examples of a chunk, N items,
k items of a ranking.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array

from genrec_jax.data.sequences import Examples, UserSequences
from genrec_jax.evaluation.metrics import metric_sums
from genrec_jax.evaluation.transition_settings import TUNING_EXCLUDES, TUNING_METRIC
from genrec_jax.models.heuristics.rankings import history_entries
from genrec_jax.models.heuristics.transitions import TransitionKNN, TransitionSettings, seen_items

# Chunks of (indices of examples [n], log-probabilities of all items [n, N]).
ScoreChunks = Iterable[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n N"]]]

MODEL, KNN, LINEAR, LOG_LINEAR = "model", "kNN", "linear", "log-linear"
CUTOFF = 10  # the cutoff of TUNING_METRIC


@dataclass(frozen=True)
class Ensemble:
    """The settings that combine the distributions of the model and the kNN."""

    method: str  # combination method: LINEAR or LOG_LINEAR; MODEL or KNN for only one of them
    weight: float = 0.0  # weight of the kNN
    smoothing: float = 0.0  # weight of popularity in p_knn; unused by MODEL
    history_weight: float = 0.0  # weight of the user's own history in p_knn

    @property
    def knn_variant(self) -> tuple[float, float]:
        """The smoothing and history weight, the arguments of `knn_distribution`."""
        return self.smoothing, self.history_weight

    def __str__(self) -> str:
        if self.method == MODEL:
            return "the model alone"
        weight = f", weight {self.weight:g}" if self.method in (LINEAR, LOG_LINEAR) else " alone"
        history = f", history weight {self.history_weight:g}" if self.history_weight else ""
        return f"{self.method}{weight}, smoothing {self.smoothing:g}{history}"


SMOOTHINGS = (0.01, 0.1)
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
NEW_ITEMS = (  # candidates if the items of the history are excluded
    Ensemble(MODEL),
    *(Ensemble(KNN, 1.0, smoothing) for smoothing in SMOOTHINGS),
    *(
        Ensemble(method, weight, smoothing)
        for method in (LINEAR, LOG_LINEAR)
        for smoothing in SMOOTHINGS
        for weight in WEIGHTS
    ),
)
HISTORY_WEIGHTS = (0.1, 0.2, 0.4)
ALL_ITEMS = (  # candidates if items of the history may be recommended
    *NEW_ITEMS,
    *(Ensemble(KNN, 1.0, SMOOTHINGS[0], history_weight) for history_weight in HISTORY_WEIGHTS),
    *(
        Ensemble(LINEAR, weight, SMOOTHINGS[0], history_weight)
        for history_weight in HISTORY_WEIGHTS
        for weight in WEIGHTS
    ),
)


def choose_ensemble(
    scores: ScoreChunks,
    sequences: UserSequences,
    examples: Examples,
    settings: TransitionSettings,
    exclude_history: bool,
) -> tuple[Ensemble, dict[Ensemble, float]]:
    """Choose the ensemble with the best validation NDCG@10.

    Args:
        scores: the model's log-probabilities of all items for `examples`, in chunks.
        sequences: the dataset whose transitions the kNN counts.
        examples: the validation examples.
        settings: the kNN's settings.
        exclude_history: whether items of the history are excluded.

    Returns:
        The best ensemble, and the NDCG@10 of every candidate.
    """
    knn = _knn(sequences, settings, exclude_history, TUNING_EXCLUDES)
    sums = dict.fromkeys(NEW_ITEMS if exclude_history else ALL_ITEMS, 0.0)
    variants = sorted({candidate.knn_variant for candidate in sums if candidate.method != MODEL})
    for rows, model in scores:
        chunk = examples.take(rows)
        model = _without_history(model, chunk, exclude_history)
        for variant in variants:
            by_knn = knn_distribution(knn, chunk, *variant)
            by_knn = _without_history(by_knn, chunk, exclude_history)
            possible = _possible_hits(model, by_knn, chunk.targets)
            both = (model[possible], by_knn[possible])
            for candidate in sums:
                # The model alone does not depend on the variant: evaluate it with the first one.
                needed = candidate.knn_variant if candidate.method != MODEL else variants[0]
                if needed == variant:
                    ranks = ranks_among(combine(*both, candidate), chunk.targets[possible])
                    sums[candidate] += metric_sums(ranks, CUTOFF)[TUNING_METRIC]
    curve = {ensemble: total / len(examples) for ensemble, total in sums.items()}
    return max(curve, key=lambda ensemble: curve[ensemble]), curve


def ensemble_rankings(
    scores: ScoreChunks,
    sequences: UserSequences,
    examples: Examples,
    settings: TransitionSettings,
    exclude_history: bool,
    ensembles: Iterable[Ensemble],
    top_k: int,
) -> dict[Ensemble, tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]]:
    """Rank the items by each of several ensembles.

    Args:
        scores: the model's log-probabilities of all items for `examples`, in chunks.
        sequences: the dataset; the kNN counts all but the last two items of every user.
        examples: the histories to rank for.
        settings: the kNN's settings.
        exclude_history: whether items of the history are excluded.
        ensembles: the ensembles to rank by.
        top_k: the length of a ranking.

    Returns:
        For each ensemble, the item rows and their scores, padded with -1 and -inf.
    """
    knn = _knn(sequences, settings, exclude_history, n_excluded=2)
    shape = (len(examples), top_k)
    rankings = {
        ensemble: (np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32))
        for ensemble in ensembles
    }
    for rows, model in scores:
        chunk = examples.take(rows)
        model = _without_history(model, chunk, exclude_history)
        for ensemble, (items, best) in rankings.items():
            by_knn = model  # unused by the model alone
            if ensemble.method != MODEL:
                by_knn = knn_distribution(knn, chunk, *ensemble.knn_variant)
                by_knn = _without_history(by_knn, chunk, exclude_history)
            items[rows], best[rows] = best_of_rows(combine(model, by_knn, ensemble), top_k)
    return rankings


def knn_distribution(
    knn: TransitionKNN, examples: Examples, smoothing: float, history_weight: float = 0.0
) -> Float[np.ndarray, "n N"]:
    """Return log p_knn of the formulas in the docstring of this module.

    Args:
        knn: the item-transition kNN.
        examples: the histories.
        smoothing: the weight s of popularity.
        history_weight: the weight h of the user's own history.
    """
    scores = knn.scores(examples)
    popularity = (knn.counts + 1.0) / (knn.counts + 1.0).sum()
    totals = np.asarray(scores.sum(axis=1)).reshape(-1)
    smoothings = np.where(totals > 0, smoothing, 1.0)
    result = (np.log(smoothings)[:, None] + np.log(popularity)).astype(np.float32)
    # Stored scores are positive, so a row whose total is 0 has no entries to divide.
    rows = np.repeat(np.arange(len(examples)), np.diff(scores.indptr))
    transitions = (1.0 - smoothings[rows]) * scores.data / totals[rows]
    smoothed = transitions + smoothings[rows] * popularity[scores.indices]
    result[rows, scores.indices] = np.log(smoothed)
    return _with_history(result, examples, history_weight) if history_weight else result


def _with_history(
    scores: Float[np.ndarray, "n N"], examples: Examples, history_weight: float
) -> Float[np.ndarray, "n N"]:
    """Return log((1 - h) · p + h · p_hist) for scores log p; log p if the history is empty."""
    rows, items, recency = history_entries(examples)
    weights = csr_array((1.0 / (1.0 + recency), (rows, items)), shape=scores.shape)
    weights.sum_duplicates()
    totals = np.asarray(weights.sum(axis=1)).reshape(-1)
    row_weights = np.where(totals > 0, history_weight, 0.0)
    rows = np.repeat(np.arange(len(scores)), np.diff(weights.indptr))
    result = scores + np.log1p(-row_weights).astype(np.float32)[:, None]
    from_history = history_weight * weights.data / totals[rows]
    result[rows, weights.indices] = np.log(np.exp(result[rows, weights.indices]) + from_history)
    return result


def combine(
    model: Float[np.ndarray, "n N"], knn: Float[np.ndarray, "n N"], ensemble: Ensemble
) -> Float[np.ndarray, "n N"]:
    """Return the combined log-probabilities, for LOG_LINEAR up to a constant per example.

    Args:
        model: the model's log-probabilities, -inf for excluded items, which stay excluded.
        knn: the kNN's log-probabilities, with the same items excluded.
        ensemble: the settings of the combination.
    """
    if ensemble.method == MODEL:
        return model
    if ensemble.method == KNN:
        return knn
    if ensemble.method == LOG_LINEAR:
        return np.float32(1.0 - ensemble.weight) * model + np.float32(ensemble.weight) * knn
    # Addition in log space avoids underflow.
    return np.logaddexp(
        model + np.float32(np.log1p(-ensemble.weight)), knn + np.float32(np.log(ensemble.weight))
    )


def ranks_among(
    scores: Float[np.ndarray, "n N"], targets: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return the rank of each target among all items, from 1; infinity if it is excluded.

    Args:
        scores: the scores of all items, -inf for excluded items; ties go to the smaller row.
        targets: the target item row of each example.
    """
    target_scores = scores[np.arange(len(targets)), targets]
    above = (scores > target_scores[:, None]).sum(axis=1)
    is_smaller_row = np.arange(scores.shape[1]) < targets[:, None]
    tied = ((scores == target_scores[:, None]) & is_smaller_row).sum(axis=1)
    return np.where(np.isneginf(target_scores), np.inf, 1.0 + above + tied)


def best_of_rows(
    scores: Float[np.ndarray, "n N"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Return the k best items of each row and their scores, padded with -1 and -inf."""
    n, n_items = scores.shape
    taken = min(k, n_items)
    threshold = np.partition(scores, n_items - taken, axis=1)[:, n_items - taken][:, None]
    above, tied = scores > threshold, scores == threshold
    n_ties = taken - above.sum(axis=1, keepdims=True)
    # Ties need to be counted only in rows that have too many of them.
    crowded = np.flatnonzero(tied.sum(axis=1) > n_ties[:, 0])
    tied[crowded] &= np.cumsum(tied[crowded], axis=1) <= n_ties[crowded]
    items = np.nonzero(above | tied)[1].reshape(n, taken)
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
    sequences: UserSequences, settings: TransitionSettings, exclude_history: bool, n_excluded: int
) -> TransitionKNN:
    """Return the kNN, which does not score items of the history if they are excluded."""
    repeats = settings.repeats and not exclude_history
    return TransitionKNN(sequences, replace(settings, repeats=repeats), n_excluded)


def _without_history(
    scores: Float[np.ndarray, "n N"], examples: Examples, exclude_history: bool
) -> Float[np.ndarray, "n N"]:
    """Return the scores with the items of each history set to -inf if these are excluded."""
    if not exclude_history:
        return scores
    seen = seen_items(examples, scores.shape[1])
    result = scores.copy()
    result[np.repeat(np.arange(len(examples)), np.diff(seen.indptr)), seen.indices] = -np.inf
    return result


def _possible_hits(
    model: Float[np.ndarray, "n N"], knn: Float[np.ndarray, "n N"], targets: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Return whether the target of each example can be among the best CUTOFF items of an ensemble.

    Items that exceed the target in both distributions exceed it in every ensemble.
    """
    rows = np.arange(len(targets))
    above = model > model[rows, targets][:, None]
    above &= knn > knn[rows, targets][:, None]
    return above.sum(axis=1) < CUTOFF
