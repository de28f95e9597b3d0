"""The permutation tests: what they count, how often they cry wolf, what they find on real files."""

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
    against_any_numbering,
    against_training_numbering,
    informative_pieces,
    new_targets,
    shared_pieces,
    verdict,
)
from genrec_jax.identifiers.indexing import Indexing, make_indexing
from genrec_jax.models.heuristics.rankings import training_counts


def written(indexing: Indexing) -> Numbering:
    """With the digits of the numbers as name pieces."""
    width = len(str(indexing.item_numbers.max()))
    digits = indexing.item_numbers[:, None] // 10 ** np.arange(width) % 10
    pieces = (digits + 10 * np.arange(width)).astype(np.int32)
    return Numbering(indexing.user_numbers, indexing.item_numbers, pieces)


def both(
    indexing: Indexing, sequences: UserSequences
) -> tuple[PermutationTest | None, PermutationTest | None]:
    examples = next_item_examples(sequences, n_excluded=0)
    cold = training_counts(sequences) == 0
    second = against_training_numbering(written(indexing), examples, cold, seed=0)
    return against_any_numbering(written(indexing), examples, seed=0), second


def verdict_on(kind: str, sequences: UserSequences, seed: int = 0) -> Verdict:
    return verdict(*both(make_indexing(kind, sequences, seed), sequences))


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
def test_other_seeds(name: str, seed: int, data_dir: Path) -> None:
    sequences = load_named(name, str(data_dir))
    assert verdict_on("random", sequences, seed) == "no evidence"
    # By first appearance in the training part: they tell of it, and of nothing that is held out.
    assert verdict_on("sequential", sequences, seed) == "informative"


def leaky_world(users: int, items: int) -> UserSequences:
    """Users of five items, numbered by first appearance over whole sequences."""
    rng = np.random.default_rng(0)
    numbers: dict[int, int] = {}
    sequences = []
    for _ in range(users):
        chosen = rng.choice(items, 5, replace=False).tolist()
        sequences.append([numbers.setdefault(item, len(numbers) + 1) for item in chosen])
    return from_sequences("leaky", list(range(1, users + 1)), sequences)


def test_each_verdict_on_a_small_world() -> None:
    sequences = leaky_world(200, 400)
    first, second = both(make_indexing("published", sequences, 0), sequences)
    assert first is not None
    assert second is not None
    assert first.p == second.p == ALPHA
    assert verdict(first, second) == "leaks"
    assert verdict(first, None) == "informative"
    assert verdict_on("sequential", sequences) != "leaks"
    assert verdict_on("random", sequences) == "no evidence"
    assert verdict(None, None) == "no evidence"


def test_false_alarms_are_as_rare_as_stated() -> None:
    """At the level .1, which 99 permutations reach, over 200 numberings dealt out by chance."""
    sequences = leaky_world(60, 120)
    examples = next_item_examples(sequences, n_excluded=0)
    cold = training_counts(sequences) == 0
    levels = []
    for seed in range(200):
        dealt = written(make_indexing("random", sequences, seed))
        first = against_any_numbering(dealt, examples, seed, permutations=99)
        second = against_training_numbering(dealt, examples, cold, seed, permutations=99)
        levels.append([test.p for test in (first, second) if test is not None])
    alarms = (np.array(levels) <= 0.1).sum(axis=0)
    assert len(alarms) == 2
    assert (alarms <= 20 + 4 * np.sqrt(200 * 0.1 * 0.9)).all()
    assert (alarms >= 4).all()  # nor are the tests blind: p is spread over 0 … 1


def test_too_few_cold_items_are_not_tested() -> None:
    sequences = from_sequences("warm", [1, 2, 3], [[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 5]])
    examples = next_item_examples(sequences, n_excluded=0)
    cold = training_counts(sequences) == 0
    dealt = written(make_indexing("published", sequences, 0))
    assert against_training_numbering(dealt, examples, cold, seed=0) is None


def test_targets_that_stand_in_the_history_are_left_out() -> None:
    items = np.array([1, 2, 1, 3, 4, 0])
    examples = Examples(
        items=items,
        users=np.arange(3),
        starts=np.array([0, 3, 5]),
        stops=np.array([2, 5, 5]),
        targets=np.array([1, 0, 0]),
    )
    assert new_targets(examples).users.tolist() == [1]  # 0 repeats an item, 2 has no history


def test_pieces() -> None:
    # Piece 9 stands in every name, piece 5 twice in one.
    tokens = np.array([[9, 5, 5, 7], [9, 5, 6, 0], [9, 7, 0, 0]], dtype=np.int32)
    pieces = informative_pieces(tokens, np.array([4, 3, 2]))
    assert [sorted(p for p in row if p >= 0) for row in pieces.tolist()] == [[5, 7], [5, 6], [7]]
    rows = np.array([0, 0, 1, 2])
    others = np.array([1, 2, 2, 0])
    assert shared_pieces(pieces[rows], pieces[others]).tolist() == [0.5, 0.5, 0, 1]
