"""What is made before a model trains knows no held-out item: codes, vectors, kNN, popularity.

The items that users take last, and last but one, are drawn anew, so that other items are popular
there too; the histories asked with stay what they are.
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
def true() -> UserSequences:
    return synthetic_sequences(SyntheticSpec(users=300, items=60))


def redrawn(sequences: UserSequences, places: tuple[int, ...]) -> UserSequences:
    """With other items at some places from every user's end."""
    items = sequences.items.copy()
    for place in places:
        at = sequences.offsets[1:] - place
        drawn = np.random.default_rng(place).beta(0.5, 2.0, len(at)) * sequences.n_items
        items[at] = drawn.astype(items.dtype)
        assert (items != sequences.items)[at].mean() > 0.9
    return dataclasses.replace(sequences, items=items)


@pytest.fixture(scope="module")
def changed(true: UserSequences) -> UserSequences:
    return redrawn(true, (1, 2))


def collaborative(sequences: UserSequences) -> Indexing:
    vectors = collaborative_vectors(sequences, dims=16, window=5, seed=0)
    return coded_indexing("collaborative", sequences, vectors, seed=3)


@pytest.mark.parametrize("indexing", ["collaborative", "random", "sequential"])
def test_names(indexing: str, true: UserSequences, changed: UserSequences) -> None:
    one, other = (
        collaborative(x) if indexing == "collaborative" else make_indexing(indexing, x, seed=3)
        for x in (true, changed)
    )
    assert one.item_identifiers() == other.item_identifiers()
    assert one.user_identifiers() == other.user_identifiers()


def test_vectors(true: UserSequences, changed: UserSequences) -> None:
    one, other = (collaborative_vectors(x, dims=16, window=5, seed=0) for x in (true, changed))
    assert one.any()
    assert one.tobytes() == other.tobytes()


def test_knn_and_popularity(true: UserSequences, changed: UserSequences) -> None:
    """Asked with the same histories."""
    examples = next_item_examples(true, TEST_EXCLUDES)
    for n_excluded in (2, 3):
        one, other = (TransitionKNN(x, SETTINGS, n_excluded) for x in (true, changed))
        np.testing.assert_array_equal(one.counts, other.counts)
        np.testing.assert_array_equal(one.scores(examples).data, other.scores(examples).data)
    for lists in (
        lambda x: transition_rankings(x, examples, SETTINGS, 20),
        lambda x: popularity_rankings(x, examples, 20),
    ):
        np.testing.assert_array_equal(lists(true), lists(changed))


def test_the_knns_settings_know_no_test_item(true: UserSequences) -> None:
    assert choose_settings(true) == choose_settings(redrawn(true, (1,)))


def test_a_log_that_ends_earlier(true: UserSequences) -> None:
    """Its test is the validation of the whole log, and it knows nothing of the items left off."""
    earlier = without_last(true, 1)
    assert (earlier.n_users, earlier.n_items) == (true.n_users, true.n_items)
    for user in range(true.n_users):
        assert earlier.of(user).tolist() == true.of(user)[:-1].tolist()
    ours = next_item_examples(earlier, TEST_EXCLUDES)
    theirs = next_item_examples(true, VALIDATION_EXCLUDES)
    np.testing.assert_array_equal(ours.targets, theirs.targets)
    for row in range(len(ours)):
        assert ours.history(row).tolist() == theirs.history(row).tolist()
    other = without_last(redrawn(true, (1, 2, 3)), 1)
    assert collaborative(earlier).item_identifiers() == collaborative(other).item_identifiers()
    assert without_last(true, 0) is true
    most = int(true.lengths.min()) - SHORTEST_SEQUENCE
    assert without_last(true, most).lengths.min() == SHORTEST_SEQUENCE
    with pytest.raises(InputError, match=rf"drop_last: found {most + 1}, .* at most {most} for"):
        without_last(true, most + 1)


def test_the_check_sees_a_leak(true: UserSequences) -> None:
    """An item that training may see does change all of them."""
    seen = redrawn(true, (3,))
    assert collaborative(true).item_identifiers() != collaborative(seen).item_identifiers()
    examples = next_item_examples(true, TEST_EXCLUDES)
    knn, popular = (
        [lists(x) for x in (true, seen)]
        for lists in (
            lambda x: transition_rankings(x, examples, SETTINGS, 20),
            lambda x: popularity_rankings(x, examples, 20),
        )
    )
    assert (knn[0] != knn[1]).any()
    assert (popular[0] != popular[1]).any()
