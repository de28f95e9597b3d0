"""Each indexing reassigns the numbers of the dataset, using only training interactions."""

import numpy as np
import pytest

from genrec_jax.data.sequences import UserSequences, from_sequences
from genrec_jax.identifiers.indexing import NUMBER_KINDS, make_indexing


@pytest.mark.parametrize("kind", NUMBER_KINDS)
def test_an_indexing_is_a_permutation_of_the_numbers(kind: str, sequences: UserSequences) -> None:
    indexing = make_indexing(kind, sequences, seed=3)
    assert indexing.kind == kind
    assert sorted(indexing.user_numbers) == sequences.user_ids.tolist()
    assert sorted(indexing.item_numbers) == sequences.item_ids.tolist()


@pytest.mark.parametrize("kind", NUMBER_KINDS)
def test_numbers_depend_on_the_seed(kind: str, sequences: UserSequences) -> None:
    one, same, other = (make_indexing(kind, sequences, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.user_numbers, same.user_numbers)
    np.testing.assert_array_equal(one.item_numbers, same.item_numbers)
    if kind != "published":
        assert (one.user_numbers != other.user_numbers).any()
        assert (one.user_numbers != sequences.user_ids).any()


def test_sequential_numbers_follow_the_training_part() -> None:
    sequences = from_sequences(
        "training parts", [7, 8, 9], [[40, 30, 40, 60, 10], [20, 60, 10, 50], [30, 70, 90]]
    )
    for seed in range(5):
        indexing = make_indexing("sequential", sequences, seed)
        number_of = dict(zip(sequences.item_ids, indexing.item_numbers, strict=True))
        # The training parts are 40 30 40, 20 60 and 30. 10, 50, 70 and 90 are in none of them.
        assert [number_of[i] for i in (40, 30, 20, 60)] == [10, 20, 30, 40]
        assert sorted(number_of[i] for i in (10, 50, 70, 90)) == [50, 60, 70, 90]


def test_sequential_numbers_do_not_depend_on_validation_and_test_items(
    sequences: UserSequences,
) -> None:
    other = sequences.items.copy()
    ends = sequences.offsets[1:]
    for index in (ends - 1, ends - 2):
        other[index] = np.roll(other[index], 1)
    changed = UserSequences(
        "other", other, sequences.offsets, sequences.user_ids, sequences.item_ids
    )
    result, expected = (make_indexing("sequential", s, seed=0) for s in (changed, sequences))
    np.testing.assert_array_equal(result.item_numbers, expected.item_numbers)
    np.testing.assert_array_equal(result.user_numbers, expected.user_numbers)


def test_an_unknown_kind_is_an_error(sequences: UserSequences) -> None:
    with pytest.raises(ValueError, match="kind: found 'titles', expected one of"):
        make_indexing("titles", sequences, seed=0)
