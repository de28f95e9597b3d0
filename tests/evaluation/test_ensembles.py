"""Ensembles compared with the formulas in plain Python, item by item."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest

from genrec_jax.data.sequences import (
    TEST_EXCLUDES,
    VALIDATION_EXCLUDES,
    Examples,
    UserSequences,
    next_item_examples,
)
from genrec_jax.evaluation.ensembles import (
    ALL_ITEMS,
    KNN,
    LINEAR,
    LOG_LINEAR,
    MODEL,
    NEW_ITEMS,
    SMOOTHINGS,
    Ensemble,
    best_of_rows,
    choose_ensemble,
    ensemble_rankings,
    knn_distribution,
    ranks_among,
)
from genrec_jax.models.heuristics.rankings import training_counts
from genrec_jax.models.heuristics.transitions import (
    TransitionKNN,
    TransitionSettings,
    transition_rankings,
)

SETTINGS = TransitionSettings(window=3, popularity=0.25)
Chunks = Iterator[tuple[np.ndarray, np.ndarray]]


def model_scores(n: int, n_items: int, seed: int = 3) -> np.ndarray:
    """Return log-probabilities with many ties."""
    logits = np.random.default_rng(seed).integers(0, 6, (n, n_items)).astype(np.float64)
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def in_chunks(scores: np.ndarray, size: int = 17) -> Chunks:
    for start in range(0, len(scores), size):
        yield np.arange(start, min(start + size, len(scores))), scores[start : start + size]


def plain_knn(
    sequences: UserSequences, history: list[int], settings: TransitionSettings, n_excluded: int
) -> list[float]:
    """Return the kNN's score of every item."""
    n = sequences.n_items
    counts = [0] * n
    forward = [[0.0] * n for _ in range(n)]
    for user in range(sequences.n_users):
        start, stop = (int(offset) for offset in sequences.offsets[user : user + 2])
        part = sequences.items[start : stop - n_excluded].tolist()
        for position, item in enumerate(part):
            counts[item] += 1
            for distance in range(1, settings.window + 1):
                if position + distance < len(part):
                    after = part[position + distance]
                    forward[item][after] += 1.0 / distance
    scores = [0.0] * n
    for recency, item in enumerate(reversed(history[-settings.newest :])):
        weight = settings.decay**recency / (1.0 + recency) ** settings.power
        for j in range(n):
            scores[j] += weight * (forward[item][j] + settings.backward * forward[j][item])
    for j in range(n):
        scores[j] /= max(counts[j], 1) ** settings.popularity
        if not settings.repeats and j in history:
            scores[j] = 0.0
    return scores


def plain_ensemble(
    sequences: UserSequences,
    history: list[int],
    model: np.ndarray,
    ensemble: Ensemble,
    settings: TransitionSettings,
    exclude: bool,
    n_excluded: int,
) -> list[float]:
    """Return the combined log-probability of every item, -inf for excluded items."""
    counts = training_counts(sequences, n_excluded).tolist()
    scores = plain_knn(sequences, history, settings, n_excluded)
    total = sum(scores)
    smoothing = ensemble.smoothing if total > 0 else 1.0
    result = []
    for j, of_model in enumerate(model.tolist()):
        popularity = (counts[j] + 1) / (sum(counts) + len(counts))
        of_knn = smoothing * popularity
        of_knn += (1 - smoothing) * scores[j] / total if total > 0 else 0.0
        if history:
            occurrences = [recency for recency, i in enumerate(reversed(history)) if i == j]
            harmonic = sum(1 / (1 + recency) for recency in range(len(history)))
            of_history = sum(1 / (1 + recency) for recency in occurrences) / harmonic
            weight = ensemble.history_weight
            of_knn = (1 - weight) * of_knn + weight * of_history
        if exclude and j in history:
            result.append(-math.inf)
        elif ensemble.method == MODEL:
            result.append(of_model)
        elif ensemble.method == KNN:
            result.append(math.log(of_knn))
        elif ensemble.method == LINEAR:
            result.append(
                math.log((1 - ensemble.weight) * math.exp(of_model) + ensemble.weight * of_knn)
            )
        else:
            result.append((1 - ensemble.weight) * of_model + ensemble.weight * math.log(of_knn))
    return result


def check_ranking(items: np.ndarray, scores: np.ndarray, expected: list[float]) -> None:
    """Check that a ranking has the best expected scores; nearly equal items may be swapped."""
    order = sorted(range(len(expected)), key=lambda j: -expected[j])[: len(items)]
    best = [expected[j] for j in order]
    np.testing.assert_allclose(scores, best, rtol=1e-4, atol=1e-5)
    assert len(set(items.tolist())) == len(items)
    np.testing.assert_allclose([expected[j] for j in items], best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("repeats", [False, True])
def test_rankings_equal_the_formulas(
    sequences: UserSequences, exclude: bool, repeats: bool
) -> None:
    examples = next_item_examples(sequences, TEST_EXCLUDES)
    settings = TransitionSettings(window=3, popularity=0.25, repeats=repeats)
    scores = model_scores(len(examples), sequences.n_items)
    ensembles = [
        *(Ensemble(MODEL), Ensemble(KNN, 1.0, 0.1), Ensemble(LINEAR, 0.3, 0.01)),
        *(Ensemble(LOG_LINEAR, 0.3, 0.1), Ensemble(LOG_LINEAR, 0.9, 0.01)),
        *(Ensemble(LINEAR, 0.6, 0.01, 0.3), Ensemble(KNN, 1.0, 0.1, 0.6)),
    ]
    rankings = ensemble_rankings(
        in_chunks(scores), sequences, examples, settings, exclude, ensembles, 10
    )
    plain = TransitionSettings(window=3, popularity=0.25, repeats=repeats and not exclude)
    for row in range(0, len(examples), 5):
        history = examples.history(row).tolist()
        for ensemble in ensembles:
            expected = plain_ensemble(sequences, history, scores[row], ensemble, plain, exclude, 2)
            items, best = (array[row] for array in rankings[ensemble])
            check_ranking(items, best, expected)
            if exclude:
                assert not set(items.tolist()) & set(history)


def test_the_validation_curve_equals_the_formulas(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, VALIDATION_EXCLUDES)
    # Distinct scores, so that rounding breaks no ties.
    noise = np.random.default_rng(5).normal(0, 2, (len(examples), sequences.n_items))
    scores = (noise - np.log(np.exp(noise).sum(axis=1, keepdims=True))).astype(np.float32)
    chosen, curve = choose_ensemble(in_chunks(scores), sequences, examples, SETTINGS, False)
    assert set(curve) == set(ALL_ITEMS)
    assert curve[chosen] == max(curve.values())
    for ensemble in (ALL_ITEMS[0], *ALL_ITEMS[1::9]):
        total = 0.0
        for row in range(len(examples)):
            history = examples.history(row).tolist()
            expected = plain_ensemble(sequences, history, scores[row], ensemble, SETTINGS, False, 3)
            target = int(examples.targets[row])
            target_score = expected[target]
            # The kNN has ties, which rounding must not break.
            rank = 1 + sum(
                score > target_score + 1e-6 or (score > target_score - 1e-6 and j < target)
                for j, score in enumerate(expected)
            )
            total += 1 / math.log2(rank + 1) if rank <= 10 else 0.0
        assert curve[ensemble] == pytest.approx(total / len(examples), abs=1e-6), ensemble


def test_the_better_of_model_and_knn_is_chosen(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, VALIDATION_EXCLUDES)
    perfect = np.full((len(examples), sequences.n_items), -9.0, np.float32)
    perfect[np.arange(len(examples)), examples.targets] = -0.01
    chosen, curve = choose_ensemble(in_chunks(perfect), sequences, examples, SETTINGS, False)
    assert curve[chosen] == curve[Ensemble(MODEL)] == 1.0
    useless = np.zeros_like(perfect)
    useless[np.arange(len(examples)), examples.targets] = -50.0
    chosen, curve = choose_ensemble(in_chunks(useless), sequences, examples, SETTINGS, False)
    assert curve[Ensemble(MODEL)] == 0.0
    assert chosen.method != MODEL
    without_history = choose_ensemble(in_chunks(perfect), sequences, examples, SETTINGS, True)[1]
    assert set(without_history) == set(NEW_ITEMS)
    assert curve[chosen] >= curve[Ensemble(KNN, 1.0, SMOOTHINGS[0])] > 0.1


def test_the_model_alone_and_the_knn_alone(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, TEST_EXCLUDES)
    scores = model_scores(len(examples), sequences.n_items)
    ensembles = (Ensemble(MODEL), Ensemble(KNN, 1.0, 1e-6))
    rankings = ensemble_rankings(
        in_chunks(scores), sequences, examples, SETTINGS, True, ensembles, 10
    )
    seen = [set(examples.history(row).tolist()) for row in range(len(examples))]
    for row, items in enumerate(rankings[ensembles[0]][0]):
        allowed = [j for j in range(sequences.n_items) if j not in seen[row]]
        assert (
            items.tolist() == sorted(allowed, key=lambda j: -scores[row, j])[:10]
        )  # a stable sort
    # The rankings of the kNN itself, except for near ties, since its scores are more precise.
    knn = transition_rankings(sequences, examples, SETTINGS, 10)
    assert (rankings[ensembles[1]][0] == knn).mean() > 0.95


def test_validation_and_test_items_are_not_used(sequences: UserSequences) -> None:
    """The choice does not use test items, and the kNN of the test split no validation items."""
    validation = next_item_examples(sequences, VALIDATION_EXCLUDES)
    test = next_item_examples(sequences, TEST_EXCLUDES)
    scores = model_scores(len(test), sequences.n_items)
    items = sequences.items.copy()
    last = sequences.offsets[1:] - 1
    items[last] = np.random.default_rng(1).permutation(items[last])
    other_test = dataclasses.replace(sequences, items=items)
    result, expected = (
        choose_ensemble(in_chunks(scores), one, validation, SETTINGS, False)
        for one in (other_test, sequences)
    )
    assert result == expected
    items = items.copy()
    items[last - 1] = np.random.default_rng(2).permutation(items[last - 1])
    other_both = dataclasses.replace(sequences, items=items)
    ensembles = (Ensemble(LOG_LINEAR, 0.5, 0.1),)
    result, expected = (
        ensemble_rankings(in_chunks(scores), one, test, SETTINGS, False, ensembles, 10)[
            ensembles[0]
        ]
        for one in (other_both, sequences)
    )
    for one, other in zip(result, expected, strict=True):
        assert one.tobytes() == other.tobytes()


def test_the_knns_distribution_is_positive_and_normalised(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, TEST_EXCLUDES)
    empty_history = Examples(
        *(examples.items, examples.users[:1], examples.stops[:1], examples.stops[:1]),
        examples.targets[:1],
    )
    knn = TransitionKNN(sequences, SETTINGS)
    for smoothing in SMOOTHINGS:
        for some in (examples, empty_history):
            scores = knn_distribution(knn, some, smoothing)
            assert np.isfinite(scores).all()
            np.testing.assert_allclose(np.exp(scores.astype(np.float64)).sum(axis=1), 1, rtol=1e-5)
    counts = training_counts(sequences)
    expected = (counts + 1) / (counts + 1).sum()  # popularity alone for an empty history
    scores = knn_distribution(knn, empty_history, 0.1)
    np.testing.assert_allclose(np.exp(scores[0]), expected, rtol=1e-5)


def test_ties_go_to_the_smaller_row() -> None:
    scores = np.array(
        [[1, 2, 2, 1, 2, 0], [0, 0, 0, 0, 0, 0], [-np.inf, 5, -np.inf, -np.inf, -np.inf, -np.inf]],
        np.float32,
    )
    items, best = best_of_rows(scores, 4)
    assert items.tolist() == [[1, 2, 4, 0], [0, 1, 2, 3], [1, -1, -1, -1]]
    assert best[2].tolist() == [5, -math.inf, -math.inf, -math.inf]
    assert best_of_rows(scores, 8)[0][0].tolist() == [1, 2, 4, 0, 3, 5, -1, -1]
    targets = np.array([3, 2, 0])
    assert ranks_among(scores, targets).tolist() == [5, 3, math.inf]


def test_rankings_and_ranks_agree_on_random_ties() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (300, 40)).astype(np.float32)
    items, _ = best_of_rows(scores, 40)
    for row in range(300):
        assert items[row].tolist() == np.argsort(-scores[row], kind="stable").tolist()
    targets = rng.integers(0, 40, 300)
    ranks = (items == targets[:, None]).argmax(axis=1) + 1.0
    assert (ranks_among(scores, targets) == ranks).all()
    short, _ = best_of_rows(scores, 7)
    assert (short == items[:, :7]).all()
