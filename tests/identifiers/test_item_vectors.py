"""Item vectors: equal to a plain implementation, free of test items, and bit-reproducible."""

import math
from collections import Counter

import numpy as np
import pytest

from genrec_jax.data.sequences import UserSequences, from_sequences
from genrec_jax.evaluation.audit import with_targets_exchanged
from genrec_jax.identifiers.item_vectors import (
    collaborative_vectors,
    cooccurrences,
    ppmi,
    side_by_side,
    singular_vectors,
    text_vectors,
    tf_idf,
)


def planted(seed: int = 0) -> UserSequences:
    """Return users who stay in one block of items, except for random validation and test items.

    The 64 items form 4 blocks of 16, each of which consists of 4 blocks of 4. Two thirds of the
    users stay in a small block. Item numbers are randomly assigned.
    """
    rng = np.random.default_rng(seed)
    number = rng.permutation(64)
    rows = []
    for user in range(600):
        size = 4 if user % 3 else 16
        block = rng.integers(64 // size) * size
        walk = block + rng.integers(size, size=8)
        rows.append([*(number[walk] + 1).tolist(), *(rng.integers(64, size=2) + 1).tolist()])
    rows += [[item, item, item] for item in range(1, 65)]  # so that every item occurs
    return from_sequences("planted", list(range(1, len(rows) + 1)), rows)


def blocks(size: int, seed: int = 0) -> np.ndarray:
    """Return the block of every item row of `planted`, for blocks of the given size."""
    number = np.random.default_rng(seed).permutation(64)
    return np.argsort(number) // size


def test_ppmi_equals_a_plain_implementation(sequences: UserSequences) -> None:
    window = 3
    pairs: Counter[tuple[int, int]] = Counter()
    for user in range(sequences.n_users):
        training = sequences.of(user)[:-2].tolist()
        for i, one in enumerate(training):
            for j, other in enumerate(training):
                if 0 < abs(i - j) <= window and one != other:
                    pairs[one, other] += 1
    total = sum(pairs.values())
    of_item: Counter[int] = Counter()
    for (one, _), count in pairs.items():
        of_item[one] += count
    expected = np.zeros((sequences.n_items, sequences.n_items))
    for (one, other), count in pairs.items():
        information = math.log((count / total) / (of_item[one] / total * of_item[other] / total))
        expected[one, other] = max(0.0, information)

    counts = cooccurrences(sequences, window)
    assert counts.sum() == total > 100
    assert (expected > 0).sum() > 100
    np.testing.assert_allclose(ppmi(counts).toarray(), expected, rtol=1e-12)


def test_the_vectors_equal_those_of_a_dense_decomposition(sequences: UserSequences) -> None:
    matrix = ppmi(cooccurrences(sequences, 5))
    vectors = singular_vectors(matrix, 6, seed=0)
    u, s, _ = np.linalg.svd(matrix.toarray())
    expected = u[:, :6] * np.sqrt(s[:6])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(vectors), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-4)
    assert vectors.dtype == np.float32


def test_vectors_are_bit_reproducible_and_depend_little_on_the_seed() -> None:
    one, same, other = (collaborative_vectors(planted(), 8, 5, seed) for seed in (0, 0, 1))
    assert one.tobytes() == same.tobytes()
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-3)


def test_vectors_do_not_depend_on_validation_and_test_items() -> None:
    sequences = planted()
    changed = with_targets_exchanged(sequences, seed=1)
    assert (changed.items != sequences.items).sum() > 800
    expected, result = (collaborative_vectors(x, 8, 5, seed=0) for x in (sequences, changed))
    assert result.tobytes() == expected.tobytes()
    # The item before the validation item is a training item.
    training = sequences.items.copy()
    training[sequences.offsets[1:601] - 3] = np.roll(training[sequences.offsets[1:601] - 3], 1)
    other = UserSequences(
        "other", training, sequences.offsets, sequences.user_ids, sequences.item_ids
    )
    assert collaborative_vectors(other, 8, 5, seed=0).tobytes() != expected.tobytes()


def test_items_without_cooccurrences_have_zero_vectors() -> None:
    sequences = from_sequences(
        "few", [1, 2, 3], [[1, 2, 3, 2, 1, 8, 9], [3, 2, 1, 9, 7], [4, 9, 8]]
    )
    vectors = collaborative_vectors(sequences, 3, 5, seed=0)
    is_known = dict(zip(sequences.item_ids.tolist(), vectors.any(axis=1).tolist(), strict=True))
    # 4 is the only item of its training part; 7, 8 and 9 are in no training part.
    assert is_known == {1: True, 2: True, 3: True, 4: False, 7: False, 8: False, 9: False}
    np.testing.assert_allclose(np.linalg.norm(vectors[:3], axis=1), 1, rtol=1e-6)
    alone = from_sequences("alone", [1, 2], [[1, 2, 3], [2, 3, 1]])
    assert not collaborative_vectors(alone, 64, 5, seed=0).any()


def test_tf_idf_equals_a_plain_implementation() -> None:
    terms = [["a", "b", "a"], ["a", "c", "all"], ["b", "c", "all"], ["only", "all"], []]
    terms = [[*one, "every"] for one in terms]
    weights = tf_idf(terms).toarray()
    assert weights.shape == (5, 5)  # without "only", the term of a single item
    a, b = math.log(5 / 2), math.log(5 / 2)
    twice = (1 + math.log(2)) * a
    np.testing.assert_allclose(sorted(weights[0]), sorted([0, 0, 0, *_unit(twice, b)]), atol=1e-12)
    np.testing.assert_allclose(weights[3].max(), 1)
    assert not weights[4].any()


def _unit(*values: float) -> list[float]:
    return [value / math.hypot(*values) for value in values]


def test_similar_texts_have_similar_vectors() -> None:
    titles = ["Red Soap", "soap, red!", "green brush", None, "Brush (green)", None]
    attributes = [["Bath"], None, ["Hair Care"], ["hair care"], None, None]
    vectors = text_vectors(titles, attributes, 4, seed=0)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] == pytest.approx(1, abs=1e-5)
    assert cosines[2, 3] > 0.5
    assert cosines[2, 4] > 0.5
    assert abs(cosines[0, 2]) < 1e-5
    assert not vectors[5].any()
    only_titles = text_vectors(titles, (), 4, seed=0)
    assert not only_titles[3].any()
    assert only_titles[2] @ only_titles[4] == pytest.approx(1, abs=1e-5)


def test_concatenated_vectors_average_the_cosines() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((5, d)).astype(np.float32) for d in (3, 4))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    first[1] = second[2] = first[4] = second[4] = 0
    both = side_by_side(first, second, 0.25)
    assert both[0] @ both[3] == pytest.approx(
        0.75 * (first[0] @ first[3]) + 0.25 * (second[0] @ second[3]), abs=1e-6
    )
    assert np.linalg.norm(both, axis=1) == pytest.approx([1, 1, 1, 1, 0], abs=1e-6)
