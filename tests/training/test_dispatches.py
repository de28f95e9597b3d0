"""The order of batches, independent of the steps per dispatch, and where dispatches end."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from genrec_jax.data.batches import BatchPlan
from genrec_jax.data.sequences import Examples
from genrec_jax.training.dispatches import SEGMENT, epoch_order, plan_dispatches


def plan_of(buckets: int) -> BatchPlan:
    """503 examples of 1 to 9 items, batches of 4."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 10, 503)
    stops = np.cumsum(lengths)
    items = np.arange(stops[-1])
    targets = np.full(503, -1)
    examples = Examples(items, np.arange(503), stops - lengths, stops, targets)
    return BatchPlan(examples, lengths * 4 + 3, 4, buckets)


def test_an_epoch_is_the_shuffled_order_in_bucket_segments() -> None:
    plan = plan_of(buckets=3)
    order = epoch_order(plan, seed=1, epoch=2)

    def content(batches: list) -> Counter:
        return Counter((bucket, tuple(rows.tolist())) for bucket, rows in batches)

    assert content(order) == content(plan.epoch(1, 2))
    buckets = [bucket for bucket, _ in order]
    changes = sum(one != other for one, other in pairwise(buckets))
    assert changes <= len(order) / SEGMENT + len(plan.buckets)
    # No bucket is trained mainly at the start or the end of the epoch.
    for bucket in plan.buckets:
        mean_position = np.mean([i for i, other in enumerate(buckets) if other == bucket])
        assert abs(mean_position / len(order) - 0.5) < 0.2


def test_with_one_bucket_an_epoch_is_the_shuffled_order() -> None:
    plan = plan_of(buckets=1)
    for (_, ours), (_, shuffled) in zip(epoch_order(plan, 3, 4), plan.epoch(3, 4), strict=True):
        np.testing.assert_array_equal(ours, shuffled)


@pytest.mark.parametrize(
    ("start", "stop", "border"), [(0, 300, 1000), (37, 260, 50), (126, 127, 1)]
)
def test_the_steps_do_not_depend_on_the_steps_per_dispatch(
    start: int, stop: int, border: int
) -> None:
    plan = plan_of(buckets=3)
    assert plan.steps_per_epoch == 126

    def steps(steps_per_dispatch: int) -> list[tuple]:
        dispatches = list(plan_dispatches(plan, 0, start, stop, steps_per_dispatch, border))
        assert max(len(dispatch.rows) for dispatch in dispatches) <= steps_per_dispatch
        assert [dispatch.start for dispatch in dispatches] == [
            start,
            *(dispatch.stop for dispatch in dispatches[:-1]),
        ]
        assert dispatches[-1].stop == stop
        for dispatch in dispatches:  # no dispatch crosses a border
            assert dispatch.start // border == (dispatch.stop - 1) // border
        return [
            (dispatch.bucket, tuple(rows))
            for dispatch in dispatches
            for rows in dispatch.rows.tolist()
        ]

    single = steps(1)
    assert len(single) == stop - start
    for steps_per_dispatch in (2, 3, 8):
        assert steps(steps_per_dispatch) == single
    assert single == list(steps_from_zero(plan, stop))[start:]


def steps_from_zero(plan: BatchPlan, stop: int) -> list[tuple]:
    dispatches = plan_dispatches(plan, 0, 0, stop, 1, 10_000)
    return [(dispatch.bucket, tuple(dispatch.rows[0].tolist())) for dispatch in dispatches]


def test_most_dispatches_are_full() -> None:
    plan = plan_of(buckets=3)
    dispatches = list(plan_dispatches(plan, 0, 0, 126 * 20, 8, 126 * 20))
    assert len(dispatches) < 1.25 * 126 * 20 / 8
