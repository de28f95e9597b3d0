"""HR and NDCG against ir-measures, which knows nothing of this project."""

import ir_measures
import numpy as np
import pytest

from genrec_jax.evaluation.metrics import HIT_CUTOFFS, NDCG_CUTOFFS, metrics


def random_rankings(seed: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists with repeats and empty places, some of them empty; targets that are often missing."""
    rng = np.random.default_rng(seed)
    lists = rng.integers(0, 60, (300, width))
    lengths = rng.integers(0, width + 1, 300)
    lists[np.arange(width) >= lengths[:, None]] = -1  # short lists
    lists[rng.random(lists.shape) < 0.05] = -1  # empty places in between
    return lists.astype(np.int32), rng.integers(0, 60, 300)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [20, 35])
def test_against_ir_measures(seed: int, width: int) -> None:
    lists, targets = random_rankings(seed, width)
    found = metrics(lists, targets)
    run: dict[str, dict[str, float]] = {}
    for user, ranked in enumerate(lists.tolist()):
        scores: dict[str, float] = {}
        for place, item in enumerate(ranked):
            # An empty place holds a document that no one asks for; a repeat counts where it
            # stands first and leaves such a document behind.
            taken = item < 0 or str(item) in scores
            scores[f"nothing {place}" if taken else str(item)] = -float(place)
        run[str(user)] = scores
    asked = {str(user): {str(target): 1} for user, target in enumerate(targets)}
    hits = {f"HR@{k}": ir_measures.Success @ k for k in HIT_CUTOFFS}
    gains = {f"NDCG@{k}": ir_measures.nDCG @ k for k in NDCG_CUTOFFS}
    theirs = hits | gains
    expected = ir_measures.calc_aggregate(list(theirs.values()), asked, run)
    assert set(found) == set(theirs)
    for name, measure in theirs.items():
        assert found[name] == pytest.approx(expected[measure], abs=1e-12), name


def test_targets_that_are_tied_by_repeats_count_once() -> None:
    lists = np.array([[3, 3, 3, 1, 2, 4, 5, 6, 7, 8]], dtype=np.int32)
    assert metrics(lists, np.array([3]))["NDCG@10"] == 1.0
    assert metrics(lists, np.array([1]))["NDCG@10"] == pytest.approx(1 / np.log2(5))
    assert metrics(lists, np.array([9]))["HR@10"] == 0.0


def test_an_empty_place_is_no_target() -> None:
    lists = np.full((1, 10), -1, dtype=np.int32)
    assert metrics(lists, np.array([-1]))["HR@10"] == 0.0
