"""Mixing against the formulas in plain Python, item by item."""

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
    """Log-probabilities with many ties: of each value there are several."""
    logits = np.random.default_rng(seed).integers(0, 6, (n, n_items)).astype(np.float64)
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def in_chunks(scores: np.ndarray, size: int = 17) -> Chunks:
    for start in range(0, len(scores), size):
        yield np.arange(start, min(start + size, len(scores))), scores[start : start + size]


def plain_knn(
    sequences: UserSequences, history: list[int], settings: TransitionSettings, n_excluded: int
) -> list[float]:
    """The kNN's score of every item."""
    n = sequences.n_items
    counts = [0] * n
    forward = [[0.0] * n for _ in range(n)]
    for user in range(sequences.n_users):
        start, stop = (int(place) for place in sequences.offsets[user : user + 2])
        part = sequences.items[start : stop - n_excluded].tolist()
        for place, item in enumerate(part):
            counts[item] += 1
            for distance in range(1, settings.window + 1):
                if place + distance < len(part):
                    after = part[place + distance]
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
    """The mixed log-probability of every item; -inf for those left out."""
    counts = training_counts(sequences, n_excluded).tolist()
    scores = plain_knn(sequences, history, settings, n_excluded)
    total = sum(scores)
    floor = ensemble.smoothing if total > 0 else 1.0
    result = []
    for j, of_model in enumerate(model.tolist()):
        popularity = (counts[j] + 1) / (sum(counts) + len(counts))
        of_knn = floor * popularity + ((1 - floor) * scores[j] / total if total > 0 else 0.0)
        if history:
            places = [recency for recency, i in enumerate(reversed(history)) if i == j]
            harmonic = sum(1 / (1 + recency) for recency in range(len(history)))
            again = sum(1 / (1 + recency) for recency in places) / harmonic
            of_knn = (1 - ensemble.history_weight) * of_knn + ensemble.history_weight * again
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


def check_list(items: np.ndarray, scores: np.ndarray, expected: list[float]) -> None:
    """The list is the best of `expected`; items within rounding of each other may change places."""
    order = sorted(range(len(expected)), key=lambda j: -expected[j])[: len(items)]
    best = [expected[j] for j in order]
    np.testing.assert_allclose(scores, best, rtol=1e-4, atol=1e-5)
    assert len(set(items.tolist())) == len(items)
    np.testing.assert_allclose([expected[j] for j in items], best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("repeats", [False, True])
def test_lists_are_those_of_the_formulas(
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
    found = ensemble_rankings(
        in_chunks(scores), sequences, examples, settings, exclude, ensembles, 10
    )
    plain = TransitionSettings(window=3, popularity=0.25, repeats=repeats and not exclude)
    for row in range(0, len(examples), 5):
        history = examples.history(row).tolist()
        for ensemble in ensembles:
            expected = plain_ensemble(sequences, history, scores[row], ensemble, plain, exclude, 2)
            items, best = (array[row] for array in found[ensemble])
            check_list(items, best, expected)
            if exclude:
                assert not set(items.tolist()) & set(history)


def test_the_validation_curve_is_that_of_the_formulas(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, VALIDATION_EXCLUDES)
    # Distinct scores: rounding decides no tie.
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
            target, own = int(examples.targets[row]), expected[examples.targets[row]]
            # The kNN has ties, which rounding must not break.
            rank = 1 + sum(
                score > own + 1e-6 or (score > own - 1e-6 and j < target)
                for j, score in enumerate(expected)
            )
            total += 1 / math.log2(rank + 1) if rank <= 10 else 0.0
        assert curve[ensemble] == pytest.approx(total / len(examples), abs=1e-6), ensemble


def test_choosing_finds_the_better_of_the_two(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, VALIDATION_EXCLUDES)
    knows = np.full((len(examples), sequences.n_items), -9.0, np.float32)
    knows[np.arange(len(examples)), examples.targets] = -0.01
    chosen, curve = choose_ensemble(in_chunks(knows), sequences, examples, SETTINGS, False)
    assert curve[chosen] == curve[Ensemble(MODEL)] == 1.0
    knows_not = np.zeros_like(knows)
    knows_not[np.arange(len(examples)), examples.targets] = -50.0
    chosen, curve = choose_ensemble(in_chunks(knows_not), sequences, examples, SETTINGS, False)
    assert curve[Ensemble(MODEL)] == 0.0
    assert chosen.method != MODEL
    without_history = choose_ensemble(in_chunks(knows), sequences, examples, SETTINGS, True)[1]
    assert set(without_history) == set(NEW_ITEMS)
    assert curve[chosen] >= curve[Ensemble(KNN, 1.0, SMOOTHINGS[0])] > 0.1


def test_a_weight_of_one_is_the_knn_and_of_zero_the_model(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, TEST_EXCLUDES)
    scores = model_scores(len(examples), sequences.n_items)
    ensembles = (Ensemble(MODEL), Ensemble(KNN, 1.0, 1e-6))
    lists = ensemble_rankings(in_chunks(scores), sequences, examples, SETTINGS, True, ensembles, 10)
    seen = [set(examples.history(row).tolist()) for row in range(len(examples))]
    for row, items in enumerate(lists[ensembles[0]][0]):
        left = [j for j in range(sequences.n_items) if j not in seen[row]]
        assert items.tolist() == sorted(left, key=lambda j: -scores[row, j])[:10]  # a stable sort
    # The kNN's own lists, but for near ties, where its order has more digits.
    knn = transition_rankings(sequences, examples, SETTINGS, 10)
    assert (lists[ensembles[1]][0] == knn).mean() > 0.95


def test_held_out_items_decide_nothing(sequences: UserSequences) -> None:
    """The choice knows no test item, and the test's kNN none of the last two of any user."""
    validation = next_item_examples(sequences, VALIDATION_EXCLUDES)
    test = next_item_examples(sequences, TEST_EXCLUDES)
    scores = model_scores(len(test), sequences.n_items)
    items = sequences.items.copy()
    last = sequences.offsets[1:] - 1
    items[last] = np.random.default_rng(1).permutation(items[last])
    no_test = dataclasses.replace(sequences, items=items)
    found, expected = (
        choose_ensemble(in_chunks(scores), one, validation, SETTINGS, False)
        for one in (no_test, sequences)
    )
    assert found == expected
    items = items.copy()
    items[last - 1] = np.random.default_rng(2).permutation(items[last - 1])
    no_held_out = dataclasses.replace(sequences, items=items)
    ensembles = (Ensemble(LOG_LINEAR, 0.5, 0.1),)
    ours, theirs = (
        ensemble_rankings(in_chunks(scores), one, test, SETTINGS, False, ensembles, 10)[
            ensembles[0]
        ]
        for one in (no_held_out, sequences)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.tobytes() == other.tobytes()


def test_the_knn_is_a_distribution_without_zeros(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, TEST_EXCLUDES)
    nobody = Examples(
        *(examples.items, examples.users[:1], examples.stops[:1], examples.stops[:1]),
        examples.targets[:1],
    )
    knn = TransitionKNN(sequences, SETTINGS)
    for floor in SMOOTHINGS:
        for some in (examples, nobody):
            found = knn_distribution(knn, some, floor)
            assert np.isfinite(found).all()
            np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=1), 1, rtol=1e-5)
    counts = training_counts(sequences)
    expected = (counts + 1) / (counts + 1).sum()  # an empty history: popularity alone
    np.testing.assert_allclose(np.exp(knn_distribution(knn, nobody, 0.1)[0]), expected, rtol=1e-5)


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


def test_lists_and_ranks_agree_on_random_ties() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (300, 40)).astype(np.float32)
    items, _ = best_of_rows(scores, 40)
    for row in range(300):
        assert items[row].tolist() == np.argsort(-scores[row], kind="stable").tolist()
    targets = rng.integers(0, 40, 300)
    places = (items == targets[:, None]).argmax(axis=1) + 1.0
    assert (ranks_among(scores, targets) == places).all()
    short, _ = best_of_rows(scores, 7)
    assert (short == items[:, :7]).all()
