"""HR and NDCG compared with ir-measures, an independent implementation."""

import ir_measures
import numpy as np
import pytest

from genrec_jax.evaluation.metrics import HIT_CUTOFFS, NDCG_CUTOFFS, metrics


def random_rankings(seed: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rankings with duplicates and padding, and targets that are often missing."""
    rng = np.random.default_rng(seed)
    rankings = rng.integers(0, 60, (300, width))
    lengths = rng.integers(0, width + 1, 300)
    rankings[np.arange(width) >= lengths[:, None]] = -1  # short rankings
    rankings[rng.random(rankings.shape) < 0.05] = -1  # padding between items
    return rankings.astype(np.int32), rng.integers(0, 60, 300)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [20, 35])
def test_against_ir_measures(seed: int, width: int) -> None:
    rankings, targets = random_rankings(seed, width)
    result = metrics(rankings, targets)
    run: dict[str, dict[str, float]] = {}
    for user, ranked in enumerate(rankings.tolist()):
        scores: dict[str, float] = {}
        for position, item in enumerate(ranked):
            # Padding and duplicates become irrelevant documents; a first occurrence counts.
            is_irrelevant = item < 0 or str(item) in scores
            scores[f"irrelevant {position}" if is_irrelevant else str(item)] = -float(position)
        run[str(user)] = scores
    relevant = {str(user): {str(target): 1} for user, target in enumerate(targets)}
    hits = {f"HR@{k}": ir_measures.Success @ k for k in HIT_CUTOFFS}
    gains = {f"NDCG@{k}": ir_measures.nDCG @ k for k in NDCG_CUTOFFS}
    measures = hits | gains
    expected = ir_measures.calc_aggregate(list(measures.values()), relevant, run)
    assert set(result) == set(measures)
    for name, measure in measures.items():
        assert result[name] == pytest.approx(expected[measure], abs=1e-12), name


def test_duplicates_count_once() -> None:
    rankings = np.array([[3, 3, 3, 1, 2, 4, 5, 6, 7, 8]], dtype=np.int32)
    assert metrics(rankings, np.array([3]))["NDCG@10"] == 1.0
    assert metrics(rankings, np.array([1]))["NDCG@10"] == pytest.approx(1 / np.log2(5))
    assert metrics(rankings, np.array([9]))["HR@10"] == 0.0


def test_padding_is_not_a_target() -> None:
    rankings = np.full((1, 10), -1, dtype=np.int32)
    assert metrics(rankings, np.array([-1]))["HR@10"] == 0.0
