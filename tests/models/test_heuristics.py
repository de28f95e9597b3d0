"""The baselines: each rule by hand on small data, and their metrics on the published files."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from genrec_jax.data.datasets import load_named
from genrec_jax.data.sequences import (
    VALIDATION_EXCLUDES,
    UserSequences,
    from_sequences,
    next_item_examples,
)
from genrec_jax.evaluation.metrics import metrics
from genrec_jax.evaluation.transition_settings import (
    DECAYS,
    POPULARITIES,
    TUNING_EXCLUDES,
    WINDOWS,
    choose_settings,
)
from genrec_jax.identifiers.indexing import make_indexing
from genrec_jax.models.heuristics.baselines import (
    NEXT_NUMBER,
    POPULARITY,
    TRANSITIONS,
    baseline_rankings,
    interleaved,
    next_number_rankings,
    own_history_rankings,
    popularity_rankings,
)
from genrec_jax.models.heuristics.transitions import TransitionSettings, transition_rankings

METRICS = ("HR@5", "NDCG@5", "HR@10", "NDCG@10")
# Measured values of METRICS. The README quotes the first two baselines.
EXPECTED = {
    "beauty": {
        "number + 1": (0.0453, 0.0447, 0.0463, 0.0450),
        "popularity": (0.0072, 0.0040, 0.0114, 0.0053),
        "newest": (0, 0, 0, 0),
        "kNN": (0.0559, 0.0414, 0.0761, 0.0479),
        "kNN with validation": (0.0650, 0.0480, 0.0863, 0.0549),
        "kNN tuned": (0.0604, 0.0441, 0.0811, 0.0508),
    },
    "sports": {
        "number + 1": (0.0428, 0.0421, 0.0433, 0.0423),
        "popularity": (0.0055, 0.0040, 0.0090, 0.0051),
        "newest": (0, 0, 0, 0),
        "kNN with validation": (0.0326, 0.0235, 0.0442, 0.0272),
    },
    "yelp": {
        "number + 1": (0.0329, 0.0324, 0.0333, 0.0326),
        "popularity": (0.0058, 0.0038, 0.0100, 0.0051),
        "newest": (0.0547, 0.0389, 0.0620, 0.0414),
        "in turn": (0.0755, 0.0519, 0.0875, 0.0558),
        "kNN with validation": (0.0357, 0.0254, 0.0507, 0.0302),
    },
}
TOLERANCES = {"number + 1": 6e-5, "popularity": 6e-5, "newest": 6e-5, "in turn": 6e-5}


@pytest.mark.parametrize("name", EXPECTED)
def test_metrics_on_the_published_files(name: str, data_dir: Path) -> None:
    sequences = load_named(name, str(data_dir))
    examples = next_item_examples(sequences, n_excluded=0)
    plain = TransitionSettings(repeats=name == "yelp")
    tuned = TransitionSettings(window=10, decay=0.6, power=0.0, popularity=0.25)
    newest = own_history_rankings(examples, sequences.n_items, 20, by="recency")
    next_number = next_number_rankings(sequences.item_ids, examples, 20)
    rules = {
        "number + 1": lambda: next_number,
        "popularity": lambda: popularity_rankings(sequences, examples, 20),
        "newest": lambda: newest,
        "in turn": lambda: interleaved(newest, next_number),
        "kNN": lambda: transition_rankings(sequences, examples, plain, 20),
        "kNN with validation": lambda: transition_rankings(
            sequences, examples, plain, 20, n_excluded=1
        ),
        "kNN tuned": lambda: transition_rankings(sequences, examples, tuned, 20),
    }
    for label, expected in EXPECTED[name].items():
        values = metrics(rules[label](), examples.targets)
        result = [values[metric] for metric in METRICS]
        np.testing.assert_allclose(
            result, expected, atol=TOLERANCES.get(label, 0.002), err_msg=label
        )


def test_numbers_beyond_the_largest_are_padding(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, n_excluded=0)
    numbers = make_indexing("random", sequences, seed=0).item_numbers
    rankings = next_number_rankings(numbers, examples, 20)
    for row in range(len(examples)):
        largest = max(numbers[item] for item in examples.history(row))
        expected = [largest + i for i in range(1, 21)]
        result = [numbers[item] if item >= 0 else None for item in rankings[row]]
        assert result == [n if n <= numbers.max() else None for n in expected]


def test_sparse_numbers() -> None:
    """Numbers may be as large as a sequence file allows, so no table of all numbers is built."""
    numbers = np.array([2_147_483_647, 7, 2_147_483_646, 5, 6], np.int32)
    sequences = from_sequences("far", [1, 2], [[1, 2, 3, 4], [4, 5, 4]])
    examples = next_item_examples(sequences, n_excluded=0)
    rankings = next_number_rankings(numbers[: sequences.n_items], examples, 3)
    assert rankings.tolist() == [[-1, -1, -1], [1, -1, -1]]


def test_own_history_newest_and_most_frequent_first() -> None:
    sequences = from_sequences("own", [1, 2], [[5, 6, 6, 7, 5, 8, 9], [5, 6, 7]])
    examples = next_item_examples(sequences, n_excluded=0)
    ids = np.append(sequences.item_ids, -1)
    by_recency = ids[own_history_rankings(examples, sequences.n_items, 5, by="recency")]
    assert by_recency.tolist() == [[8, 5, 7, 6, -1], [6, 5, -1, -1, -1]]
    by_count = ids[own_history_rankings(examples, sequences.n_items, 5, by="count")]
    assert by_count.tolist() == [[5, 6, 8, 7, -1], [6, 5, -1, -1, -1]]


def plain_transitions(
    sequences: UserSequences, settings: TransitionSettings, n_excluded: int
) -> list[list[int]]:
    """Compute the formulas of models/heuristics/transitions.py for the test split with loops."""
    table: dict[tuple[int, int], float] = {}
    counts = dict.fromkeys(range(sequences.n_items), 0)
    for user in range(sequences.n_users):
        items = sequences.of(user)[:-n_excluded].tolist()
        for position, item in enumerate(items):
            counts[item] += 1
            for distance in range(1, settings.window + 1):
                if position + distance < len(items):
                    after, weight = items[position + distance], 1 / distance
                    table[item, after] = table.get((item, after), 0) + weight
                    back = settings.backward * weight
                    table[after, item] = table.get((after, item), 0) + back
    rankings = []
    for user in range(sequences.n_users):
        history = sequences.of(user)[:-1].tolist()
        scores = dict.fromkeys(counts, 0.0)
        for recency, item in enumerate(history[::-1][: settings.newest]):
            weight = settings.decay**recency / (1 + recency) ** settings.power
            for other in counts:
                scores[other] += weight * table.get((item, other), 0)
        for other, count in counts.items():
            scores[other] /= max(count, 1) ** settings.popularity
        allowed = [i for i in counts if settings.repeats or i not in history]
        ranked = sorted(allowed, key=lambda i: (-round(scores[i], 9), -counts[i], i))
        rankings.append((ranked + [-1] * 20)[:20])
    return rankings


@pytest.mark.parametrize(
    ("settings", "n_excluded"),
    [
        (TransitionSettings(), 2),
        (TransitionSettings(window=2, decay=0.6, power=0.0, popularity=0.0, repeats=True), 2),
        (TransitionSettings(window=10, newest=3, popularity=0.25), 1),
    ],
)
def test_transition_rankings_equal_those_of_loops(
    settings: TransitionSettings, n_excluded: int, sequences: UserSequences
) -> None:
    examples = next_item_examples(sequences, n_excluded=0)
    result = transition_rankings(sequences, examples, settings, 20, n_excluded)
    assert result.tolist() == plain_transitions(sequences, settings, n_excluded)


def test_the_settings_do_not_depend_on_test_items(sequences: UserSequences) -> None:
    other = sequences.items.copy()
    other[sequences.offsets[1:] - 1] = np.roll(other[sequences.offsets[1:] - 1], 1)
    shuffled = UserSequences(
        "other", other, sequences.offsets, sequences.user_ids, sequences.item_ids
    )
    assert choose_settings(shuffled) == choose_settings(sequences)


def repeating_log() -> UserSequences:
    """Return 200 users of 30 items who repeat an item in three of five steps."""
    rng = np.random.default_rng(4)
    rows = []
    for _ in range(200):
        row = rng.integers(1, 31, 2).tolist()
        for _ in range(rng.integers(3, 12)):
            row.append(int(rng.choice(row)) if rng.random() < 0.6 else int(rng.integers(1, 31)))
        rows.append(row)
    return from_sequences("repeating", range(1, 201), rows)


def test_every_baseline_can_exclude_the_history() -> None:
    """Compare with loops, on data for which the best kNN recommends items of the history."""
    sequences = repeating_log()
    assert choose_settings(sequences).repeats
    settings = choose_settings(sequences, exclude_history=True)
    assert not settings.repeats
    examples = next_item_examples(sequences, n_excluded=0)
    numbers = make_indexing("random", sequences, seed=0).item_numbers
    result = baseline_rankings(
        sequences, examples, numbers, replace(settings, repeats=True), 10, exclude_history=True
    )
    assert list(result) == [POPULARITY, NEXT_NUMBER, TRANSITIONS]
    counts = [0] * sequences.n_items
    for user in range(sequences.n_users):
        for item in sequences.of(user)[:-2].tolist():
            counts[item] += 1
    popular = sorted(range(sequences.n_items), key=lambda item: (-counts[item], item))
    for row in range(len(examples)):
        history = set(examples.history(row).tolist())
        expected = [item for item in popular if item not in history][:10]
        assert result[POPULARITY][row].tolist() == expected
        assert not history & set(result[NEXT_NUMBER][row].tolist())
    expected = [ranked[:10] for ranked in plain_transitions(sequences, settings, 2)]
    assert result[TRANSITIONS].tolist() == expected
    assert (result[TRANSITIONS] >= 0).all()


def test_a_catalogue_with_fewer_new_items_than_a_ranking_has() -> None:
    sequences = from_sequences("small", [1, 2], [[1, 2, 3, 4], [3, 4, 3, 1]])
    examples = next_item_examples(sequences, n_excluded=0)
    rankings = popularity_rankings(sequences, examples, 3, exclude_history=True)
    assert rankings.tolist() == [[3, -1, -1], [0, 1, -1]]


def test_the_best_knn_without_repeats_is_chosen_if_the_history_is_excluded() -> None:
    """It is not the best of all settings with the repeats removed afterwards."""
    sequences = repeating_log()
    examples = next_item_examples(sequences, VALIDATION_EXCLUDES)
    scores = {}
    for window, (decay, power), popularity in product(WINDOWS, DECAYS, POPULARITIES):
        one = TransitionSettings(window, decay=decay, power=power, popularity=popularity)
        rankings = transition_rankings(sequences, examples, one, 10, TUNING_EXCLUDES)
        scores[one] = metrics(rankings, examples.targets)["NDCG@10"]
    chosen = choose_settings(sequences, exclude_history=True)
    assert scores[chosen] == pytest.approx(max(scores.values()))


def test_rankings_contain_no_duplicates(sequences: UserSequences) -> None:
    examples = next_item_examples(sequences, n_excluded=0)
    settings = choose_settings(sequences)
    numbers = make_indexing("random", sequences, seed=0).item_numbers
    result = baseline_rankings(sequences, examples, numbers, settings, 20, False)
    assert NEXT_NUMBER in result
    for name, rankings in result.items():
        assert rankings.shape == (len(examples), 20), name
        for ranking in rankings:
            items = ranking[ranking >= 0]
            assert len(set(items)) == len(items), name
            assert (items < sequences.n_items).all(), name
