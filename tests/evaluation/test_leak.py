"""The permutation tests: statistics, false alarm rate, and verdicts on the published files."""

from pathlib import Path

import numpy as np
import pytest

from genrec_jax.data.datasets import load_named
from genrec_jax.data.sequences import Examples, UserSequences, from_sequences, next_item_examples
from genrec_jax.evaluation.leak import (
    ALPHA,
    Numbering,
    PermutationTest,
    Verdict,
    against_random_numbers,
    against_training_numbers,
    informative_tokens,
    new_targets,
    shared_tokens,
    verdict,
)
from genrec_jax.identifiers.indexing import Indexing, make_indexing
from genrec_jax.models.heuristics.rankings import training_counts


def with_digits(indexing: Indexing) -> Numbering:
    """Return the numbers with their digits as tokens."""
    width = len(str(indexing.item_numbers.max()))
    digits = indexing.item_numbers[:, None] // 10 ** np.arange(width) % 10
    tokens = (digits + 10 * np.arange(width)).astype(np.int32)
    return Numbering(indexing.user_numbers, indexing.item_numbers, tokens)


def both_tests(
    indexing: Indexing, sequences: UserSequences
) -> tuple[PermutationTest | None, PermutationTest | None]:
    examples = next_item_examples(sequences, n_excluded=0)
    cold = training_counts(sequences) == 0
    second = against_training_numbers(with_digits(indexing), examples, cold, seed=0)
    return against_random_numbers(with_digits(indexing), examples, seed=0), second


def verdict_on(kind: str, sequences: UserSequences, seed: int = 0) -> Verdict:
    return verdict(*both_tests(make_indexing(kind, sequences, seed), sequences))


@pytest.mark.parametrize(
    "name",
    [
        "beauty",
        pytest.param("sports", marks=pytest.mark.slow),
        pytest.param("yelp", marks=pytest.mark.slow),
    ],
)
def test_published_numbers_leak_and_random_ones_do_not(name: str, data_dir: Path) -> None:
    sequences = load_named(name, str(data_dir))
    assert verdict_on("published", sequences) == "leaks"
    assert verdict_on("random", sequences) == "no evidence"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("name", ["beauty", "sports", "yelp"])
def test_verdicts_on_other_seeds(name: str, seed: int, data_dir: Path) -> None:
    sequences = load_named(name, str(data_dir))
    assert verdict_on("random", sequences, seed) == "no evidence"
    # Numbers by first appearance in the training parts are informative but do not leak.
    assert verdict_on("sequential", sequences, seed) == "informative"


def leaky_dataset(users: int, items: int) -> UserSequences:
    """Return users with five items each, numbered by first appearance over whole sequences."""
    rng = np.random.default_rng(0)
    numbers: dict[int, int] = {}
    sequences = []
    for _ in range(users):
        chosen = rng.choice(items, 5, replace=False).tolist()
        sequences.append([numbers.setdefault(item, len(numbers) + 1) for item in chosen])
    return from_sequences("leaky", list(range(1, users + 1)), sequences)


def test_verdicts_on_a_small_dataset() -> None:
    sequences = leaky_dataset(200, 400)
    first, second = both_tests(make_indexing("published", sequences, 0), sequences)
    assert first is not None
    assert second is not None
    assert first.p == second.p == ALPHA
    assert verdict(first, second) == "leaks"
    assert verdict(first, None) == "informative"
    assert verdict_on("sequential", sequences) != "leaks"
    assert verdict_on("random", sequences) == "no evidence"
    assert verdict(None, None) == "no evidence"


def test_the_false_alarm_rate_is_as_stated() -> None:
    """Test 200 random numberings at the level .1, for which 99 permutations suffice."""
    sequences = leaky_dataset(60, 120)
    examples = next_item_examples(sequences, n_excluded=0)
    cold = training_counts(sequences) == 0
    p_values = []
    for seed in range(200):
        numbering = with_digits(make_indexing("random", sequences, seed))
        first = against_random_numbers(numbering, examples, seed, permutations=99)
        second = against_training_numbers(numbering, examples, cold, seed, permutations=99)
        p_values.append([test.p for test in (first, second) if test is not None])
    alarms = (np.array(p_values) <= 0.1).sum(axis=0)
    assert len(alarms) == 2
    assert (alarms <= 20 + 4 * np.sqrt(200 * 0.1 * 0.9)).all()
    assert (alarms >= 4).all()  # p is spread over 0 … 1, so some tests reject


def test_too_few_cold_items_are_not_tested() -> None:
    sequences = from_sequences("warm", [1, 2, 3], [[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 5]])
    examples = next_item_examples(sequences, n_excluded=0)
    cold = training_counts(sequences) == 0
    numbering = with_digits(make_indexing("published", sequences, 0))
    assert against_training_numbers(numbering, examples, cold, seed=0) is None


def test_targets_in_the_history_are_excluded() -> None:
    items = np.array([1, 2, 1, 3, 4, 0])
    examples = Examples(
        items=items,
        users=np.arange(3),
        starts=np.array([0, 3, 5]),
        stops=np.array([2, 5, 5]),
        targets=np.array([1, 0, 0]),
    )
    assert new_targets(examples).users.tolist() == [1]  # 0 repeats an item, 2 has no history


def test_informative_and_shared_tokens() -> None:
    # Token 9 occurs in every identifier, token 5 twice in one.
    tokens = np.array([[9, 5, 5, 7], [9, 5, 6, 0], [9, 7, 0, 0]], dtype=np.int32)
    informative = informative_tokens(tokens, np.array([4, 3, 2]))
    assert [sorted(t for t in row if t >= 0) for row in informative.tolist()] == [
        [5, 7],
        [5, 6],
        [7],
    ]
    rows = np.array([0, 0, 1, 2])
    others = np.array([1, 2, 2, 0])
    assert shared_tokens(informative[rows], informative[others]).tolist() == [0.5, 0.5, 0, 1]
