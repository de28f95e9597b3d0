"""The bootstrap compared with one that draws users in a loop, and with the formula of a share."""

import time

import numpy as np
import pytest

from genrec_jax.evaluation.intervals import difference_intervals, intervals
from genrec_jax.evaluation.metrics import gains


def random_ranks(n: int, seed: int, rate: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ranks = rng.integers(1, 21, n).astype(float)
    ranks[rng.random(n) > rate] = np.inf
    return ranks


def interval_by_drawing_users(
    one: np.ndarray, other: np.ndarray | None, metric: str, resamples: int = 4000
) -> list[float]:
    values = gains(one, 20)[metric]
    if other is not None:
        values = values - gains(other, 20)[metric]
    rng = np.random.default_rng(7)
    means = [values[rng.integers(len(one), size=len(one))].mean() for _ in range(resamples)]
    return np.percentile(means, [2.5, 97.5]).tolist()


@pytest.mark.parametrize("metric", ["HR@10", "NDCG@5"])
def test_intervals_equal_those_of_drawing_users(metric: str) -> None:
    ranks = random_ranks(500, seed=1)
    others = np.where(np.random.default_rng(2).random(500) < 0.7, ranks, random_ranks(500, seed=3))
    low, high = intervals(ranks, 20)[metric]
    width = high - low
    expected = interval_by_drawing_users(ranks, None, metric)
    np.testing.assert_allclose([low, high], expected, atol=width / 20)
    low, high = difference_intervals(ranks, others, 20)[metric]
    expected = interval_by_drawing_users(ranks, others, metric)
    np.testing.assert_allclose([low, high], expected, atol=width / 20)


def test_the_interval_of_a_share_has_the_width_of_the_formula() -> None:
    ranks = random_ranks(20_000, seed=4, rate=0.1)
    share = np.isfinite(ranks).mean()
    low, high = intervals(ranks, 20)["HR@20"]
    assert low < share < high
    expected = 2 * 1.96 * np.sqrt(share * (1 - share) / len(ranks))
    assert high - low == pytest.approx(expected, rel=0.05)


def test_differences_are_paired() -> None:
    ranks = random_ranks(1000, seed=5)
    assert difference_intervals(ranks, ranks, 20)["NDCG@10"] == [0.0, 0.0]
    others = random_ranks(1000, seed=6)
    low, high = difference_intervals(ranks, others, 20)["NDCG@10"]
    assert low < 0 < high


def test_intervals_are_seeded_and_fast_for_many_users() -> None:
    ranks, others = random_ranks(35_000, seed=8), random_ranks(35_000, seed=9)
    started = time.monotonic()
    first = difference_intervals(ranks, others, 20, seed=1)
    assert time.monotonic() - started < 5
    assert first == difference_intervals(ranks, others, 20, seed=1)
    assert first != difference_intervals(ranks, others, 20, seed=2)
