"""Ensembles of a model's item probabilities with those of the item-transition kNN, over all items.

    linear        p(j)     = (1 - w) · p_model(j) + w · p_knn(j)
    log-linear    log p(j) = (1 - w) · log p_model(j) + w · log p_knn(j) + a constant of the user
    p_knn(j)      = (1 - h) · [(1 - s) · t(j) / Σ t + s · (c(j) + 1) / Σ (c + 1)] + h · p_hist(j)
    p_hist(j)     ∝ Σ over occurrences of j in the history of 1 / (1 + r), with r later items

t are the kNN's scores (models/heuristics) and c the training counts. The smoothing s gives every
item a positive probability; it is 1 for a history without any transition. The history weight h is
the share of the user's own history, 0 where its items are excluded. A weight w of 0 is the model's
own ranking, 1 that of p_knn; ties go to the smaller row.

Combination method, weight, smoothing and history weight are those with the best validation NDCG@10.
Transitions are counted without the last three items of every user for validation, and without the
last two for the test: either way the newest item of a history is in no count, as in
`choose_settings`.

Memory is bounded by the chunks of the model's scores. Axes: n examples of a chunk, N items,
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

# (rows of the examples [n], log-probability of every item [n, N]), each example in one chunk
ScoreChunks = Iterable[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n N"]]]

MODEL, KNN, LINEAR, LOG_LINEAR = "model", "kNN", "linear", "log-linear"
CUTOFF = 10  # the cutoff of TUNING_METRIC


@dataclass(frozen=True)
class Ensemble:
    """The settings by which the model's and the kNN's distributions are combined."""

    method: str  # LINEAR, LOG_LINEAR, or MODEL or KNN for one distribution alone
    weight: float = 0.0  # weight of the kNN
    smoothing: float = 0.0  # share of popularity in p_knn; unused by MODEL
    history_weight: float = 0.0  # share of the user's own history in p_knn

    @property
    def knn_variant(self) -> tuple[float, float]:
        """The arguments of `knn_distribution`."""
        return self.smoothing, self.history_weight

    def __str__(self) -> str:
        if self.method == MODEL:
            return "the model alone"
        weight = f", weight {self.weight:g}" if self.method in (LINEAR, LOG_LINEAR) else " alone"
        history = f", history weight {self.history_weight:g}" if self.history_weight else ""
        return f"{self.method}{weight}, smoothing {self.smoothing:g}{history}"


SMOOTHINGS = (0.01, 0.1)
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
NEW_ITEMS = (  # candidates where items of the history are excluded
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
ALL_ITEMS = (  # candidates where items may be recommended again
    *NEW_ITEMS,
    *(Ensemble(KNN, 1.0, SMOOTHINGS[0], share) for share in HISTORY_WEIGHTS),
    *(
        Ensemble(LINEAR, weight, SMOOTHINGS[0], share)
        for share in HISTORY_WEIGHTS
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
        scores: the model's scores of all items for `examples`.
        sequences: the dataset, whose transitions the kNN counts.
        examples: the validation examples.
        settings: the kNN's settings.
        exclude_history: whether items of the history are excluded.

    Returns:
        The best ensemble, and the validation NDCG@10 of every candidate.
    """
    knn = _knn(sequences, settings, exclude_history, TUNING_EXCLUDES)
    sums = dict.fromkeys(NEW_ITEMS if exclude_history else ALL_ITEMS, 0.0)
    variants = sorted({one.knn_variant for one in sums if one.method != MODEL})
    for rows, model in scores:
        chunk = examples.take(rows)
        model = _without_history(model, chunk, exclude_history)
        for variant in variants:
            votes = knn_distribution(knn, chunk, *variant)
            votes = _without_history(votes, chunk, exclude_history)
            hopeful = _can_be_hits(model, votes, chunk.targets)
            pair = (model[hopeful], votes[hopeful])
            for one in sums:
                # The model alone is the same for every variant.
                counts = one.knn_variant if one.method != MODEL else variants[0]
                if counts == variant:
                    ranks = ranks_among(combine(*pair, one), chunk.targets[hopeful])
                    sums[one] += metric_sums(ranks, CUTOFF)[TUNING_METRIC]
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
    """Rank by several ensembles.

    Args:
        scores: the model's scores of all items for `examples`.
        sequences: the dataset; the kNN counts all but the last two items of every user.
        examples: the histories.
        settings: the kNN's settings.
        exclude_history: whether items of the history are excluded.
        ensembles: the ensembles to rank by.
        top_k: the length of a ranking.

    Returns:
        For each ensemble the item rows, -1 where there are fewer than `top_k`, and their scores.
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
            votes = model
            if ensemble.method != MODEL:
                votes = knn_distribution(knn, chunk, ensemble.smoothing, ensemble.history_weight)
                votes = _without_history(votes, chunk, exclude_history)
            items[rows], best[rows] = best_of_rows(combine(model, votes, ensemble), top_k)
    return rankings


def knn_distribution(
    knn: TransitionKNN, examples: Examples, smoothing: float, history_weight: float = 0.0
) -> Float[np.ndarray, "n N"]:
    """Return log p_knn of the formulas in the module's docstring.

    Args:
        knn: the item-transition kNN.
        examples: the histories.
        smoothing: the share of popularity.
        history_weight: the share of the user's own history.
    """
    scores = knn.scores(examples)
    popularity = (knn.counts + 1.0) / (knn.counts + 1.0).sum()
    totals = np.asarray(scores.sum(axis=1)).reshape(-1)
    shares = np.where(totals > 0, smoothing, 1.0)  # of popularity
    result = (np.log(shares)[:, None] + np.log(popularity)).astype(np.float32)
    # Stored scores are positive, so a history without a total has none.
    rows = np.repeat(np.arange(len(examples)), np.diff(scores.indptr))
    transitions = (1.0 - shares[rows]) * scores.data / totals[rows]
    result[rows, scores.indices] = np.log(transitions + shares[rows] * popularity[scores.indices])
    return _with_own_history(result, examples, history_weight) if history_weight else result


def _with_own_history(
    votes: Float[np.ndarray, "n N"], examples: Examples, share: float
) -> Float[np.ndarray, "n N"]:
    """Return log of (1 - share) · p + share · p_hist; log p for an empty history."""
    rows, items, recency = history_entries(examples)
    weights = csr_array((1.0 / (1.0 + recency), (rows, items)), shape=votes.shape)
    weights.sum_duplicates()
    totals = np.asarray(weights.sum(axis=1)).reshape(-1)
    shares = np.where(totals > 0, share, 0.0)
    rows = np.repeat(np.arange(len(votes)), np.diff(weights.indptr))
    result = votes + np.log1p(-shares).astype(np.float32)[:, None]
    repeated = np.exp(result[rows, weights.indices]) + share * weights.data / totals[rows]
    result[rows, weights.indices] = np.log(repeated)
    return result


def combine(
    model: Float[np.ndarray, "n N"], knn: Float[np.ndarray, "n N"], ensemble: Ensemble
) -> Float[np.ndarray, "n N"]:
    """Combine log-probabilities; LOG_LINEAR omits a constant per example, and -inf stays -inf."""
    if ensemble.method == MODEL:
        return model
    if ensemble.method == KNN:
        return knn
    if ensemble.method == LOG_LINEAR:
        return np.float32(1.0 - ensemble.weight) * model + np.float32(ensemble.weight) * knn
    # In log space, so that no probability underflows.
    return np.logaddexp(
        model + np.float32(np.log1p(-ensemble.weight)), knn + np.float32(np.log(ensemble.weight))
    )


def ranks_among(
    scores: Float[np.ndarray, "n N"], targets: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return the rank of each target among all items, from 1; infinity if it is excluded."""
    of_targets = scores[np.arange(len(targets)), targets]
    above = (scores > of_targets[:, None]).sum(axis=1)
    before = np.arange(scores.shape[1]) < targets[:, None]
    equal = ((scores == of_targets[:, None]) & before).sum(axis=1)
    return np.where(np.isneginf(of_targets), np.inf, 1.0 + above + equal)


def best_of_rows(
    scores: Float[np.ndarray, "n N"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """Return the k best items of each row and their scores; -1 and -inf if there are fewer."""
    n, n_items = scores.shape
    taken = min(k, n_items)
    last = np.partition(scores, n_items - taken, axis=1)[:, n_items - taken][:, None]
    above, tied = scores > last, scores == last
    room = taken - above.sum(axis=1, keepdims=True)
    # Only rows in which not all ties fit need a count.
    crowded = np.flatnonzero(tied.sum(axis=1) > room[:, 0])
    tied[crowded] &= np.cumsum(tied[crowded], axis=1) <= room[crowded]
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
    repeats = settings.repeats and not exclude_history
    return TransitionKNN(sequences, replace(settings, repeats=repeats), n_excluded)


def _without_history(
    scores: Float[np.ndarray, "n N"], examples: Examples, exclude_history: bool
) -> Float[np.ndarray, "n N"]:
    """Set the scores of each history's items to -inf if they are excluded."""
    if not exclude_history:
        return scores
    seen = seen_items(examples, scores.shape[1])
    result = scores.copy()
    result[np.repeat(np.arange(len(examples)), np.diff(seen.indptr)), seen.indices] = -np.inf
    return result


def _can_be_hits(
    model: Float[np.ndarray, "n N"], knn: Float[np.ndarray, "n N"], targets: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Return False where CUTOFF items exceed the target in both, and so in every ensemble."""
    rows = np.arange(len(targets))
    above = model > model[rows, targets][:, None]
    above &= knn > knn[rows, targets][:, None]
    return above.sum(axis=1) < CUTOFF
