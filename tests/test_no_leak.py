"""Codes, item vectors, the kNN and popularity do not depend on validation and test items.

The last two items of every user are redrawn from another distribution. The histories to rank for
stay the same.
"""

import dataclasses

import numpy as np
import pytest

from genrec_jax.core.errors import InputError
from genrec_jax.data.sequences import (
    SHORTEST_SEQUENCE,
    TEST_EXCLUDES,
    VALIDATION_EXCLUDES,
    UserSequences,
    next_item_examples,
    without_last,
)
from genrec_jax.data.synthetic import SyntheticSpec, synthetic_sequences
from genrec_jax.evaluation.transition_settings import choose_settings
from genrec_jax.identifiers.indexing import Indexing, coded_indexing, make_indexing
from genrec_jax.identifiers.item_vectors import collaborative_vectors
from genrec_jax.models.heuristics.baselines import popularity_rankings
from genrec_jax.models.heuristics.transitions import (
    TransitionKNN,
    TransitionSettings,
    transition_rankings,
)

SETTINGS = TransitionSettings(window=10, decay=0.6, power=0.0, popularity=0.25)


@pytest.fixture(scope="module")
def original() -> UserSequences:
    return synthetic_sequences(SyntheticSpec(users=300, items=60))


def redrawn(sequences: UserSequences, positions: tuple[int, ...]) -> UserSequences:
    """Redraw the items at the given positions from the end of every user's sequence."""
    items = sequences.items.copy()
    for position in positions:
        index = sequences.offsets[1:] - position
        drawn = np.random.default_rng(position).beta(0.5, 2.0, len(index)) * sequences.n_items
        items[index] = drawn.astype(items.dtype)
        assert (items != sequences.items)[index].mean() > 0.9
    return dataclasses.replace(sequences, items=items)


@pytest.fixture(scope="module")
def changed(original: UserSequences) -> UserSequences:
    return redrawn(original, (1, 2))


def collaborative(sequences: UserSequences) -> Indexing:
    vectors = collaborative_vectors(sequences, dims=16, window=5, seed=0)
    return coded_indexing("collaborative", sequences, vectors, seed=3)


@pytest.mark.parametrize("indexing", ["collaborative", "random", "sequential"])
def test_identifiers(indexing: str, original: UserSequences, changed: UserSequences) -> None:
    one, other = (
        collaborative(x) if indexing == "collaborative" else make_indexing(indexing, x, seed=3)
        for x in (original, changed)
    )
    assert one.item_identifiers() == other.item_identifiers()
    assert one.user_identifiers() == other.user_identifiers()


def test_vectors(original: UserSequences, changed: UserSequences) -> None:
    one, other = (collaborative_vectors(x, dims=16, window=5, seed=0) for x in (original, changed))
    assert one.any()
    assert one.tobytes() == other.tobytes()


def test_knn_and_popularity(original: UserSequences, changed: UserSequences) -> None:
    """Rank for the same histories, which end before the test items."""
    examples = next_item_examples(original, TEST_EXCLUDES)
    for n_excluded in (2, 3):
        one, other = (TransitionKNN(x, SETTINGS, n_excluded) for x in (original, changed))
        np.testing.assert_array_equal(one.counts, other.counts)
        np.testing.assert_array_equal(one.scores(examples).data, other.scores(examples).data)
    for rank in (
        lambda x: transition_rankings(x, examples, SETTINGS, 20),
        lambda x: popularity_rankings(x, examples, 20),
    ):
        np.testing.assert_array_equal(rank(original), rank(changed))


def test_the_settings_of_the_knn_do_not_depend_on_test_items(original: UserSequences) -> None:
    assert choose_settings(original) == choose_settings(redrawn(original, (1,)))


def test_a_shortened_dataset(original: UserSequences) -> None:
    """Its test split is the validation split of the whole dataset, without the dropped items."""
    shortened = without_last(original, 1)
    assert (shortened.n_users, shortened.n_items) == (original.n_users, original.n_items)
    for user in range(original.n_users):
        assert shortened.of(user).tolist() == original.of(user)[:-1].tolist()
    test = next_item_examples(shortened, TEST_EXCLUDES)
    validation = next_item_examples(original, VALIDATION_EXCLUDES)
    np.testing.assert_array_equal(test.targets, validation.targets)
    for row in range(len(test)):
        assert test.history(row).tolist() == validation.history(row).tolist()
    other = without_last(redrawn(original, (1, 2, 3)), 1)
    assert collaborative(shortened).item_identifiers() == collaborative(other).item_identifiers()
    assert without_last(original, 0) is original
    most = int(original.lengths.min()) - SHORTEST_SEQUENCE
    assert without_last(original, most).lengths.min() == SHORTEST_SEQUENCE
    with pytest.raises(InputError, match=rf"drop_last: found {most + 1}, .* at most {most} for"):
        without_last(original, most + 1)


def test_changed_training_items_change_the_results(original: UserSequences) -> None:
    """The tests above can fail: redrawing a training item changes codes, kNN and popularity."""
    changed = redrawn(original, (3,))
    assert collaborative(original).item_identifiers() != collaborative(changed).item_identifiers()
    examples = next_item_examples(original, TEST_EXCLUDES)
    knn, popular = (
        [rank(x) for x in (original, changed)]
        for rank in (
            lambda x: transition_rankings(x, examples, SETTINGS, 20),
            lambda x: popularity_rankings(x, examples, 20),
        )
    )
    assert (knn[0] != knn[1]).any()
    assert (popular[0] != popular[1]).any()
