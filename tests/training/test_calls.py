"""The order of the batches, which does not depend on how many a call takes, and the borders."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from genrec_jax.data.batches import BatchPlan
from genrec_jax.data.sequences import Examples
from genrec_jax.training.calls import RUN, epoch_order, plan_calls


def plan_of(buckets: int) -> BatchPlan:
    """503 examples of 1 to 9 items, batches of 4."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 10, 503)
    stops = np.cumsum(lengths)
    items = np.arange(stops[-1])
    targets = np.full(503, -1)
    examples = Examples(items, np.arange(503), stops - lengths, stops, targets)
    return BatchPlan(examples, lengths * 4 + 3, 4, buckets)


def test_an_epoch_is_the_shuffled_one_in_runs_of_a_bucket() -> None:
    plan = plan_of(buckets=3)
    order = epoch_order(plan, seed=1, epoch=2)

    def content(batches: list) -> Counter:
        return Counter((bucket, tuple(rows.tolist())) for bucket, rows in batches)

    assert content(order) == content(plan.epoch(1, 2))
    names = [bucket for bucket, _ in order]
    changes = sum(one != other for one, other in pairwise(names))
    assert changes <= len(order) / RUN + len(plan.buckets)
    places = {bucket: np.mean([i for i, b in enumerate(names) if b == bucket]) for bucket in names}
    assert all(abs(place / len(order) - 0.5) < 0.2 for place in places.values())  # none comes first


def test_with_one_bucket_it_is_the_shuffled_order_itself() -> None:
    plan = plan_of(buckets=1)
    for (_, ours), (_, shuffled) in zip(epoch_order(plan, 3, 4), plan.epoch(3, 4), strict=True):
        np.testing.assert_array_equal(ours, shuffled)


@pytest.mark.parametrize(
    ("start", "stop", "border"), [(0, 300, 1000), (37, 260, 50), (126, 127, 1)]
)
def test_calls_hold_the_same_steps_however_many_they_take(
    start: int, stop: int, border: int
) -> None:
    plan = plan_of(buckets=3)
    assert plan.steps_per_epoch == 126

    def steps(steps_per_call: int) -> list[tuple]:
        calls = list(plan_calls(plan, 0, start, stop, steps_per_call, border))
        assert max(len(call.rows) for call in calls) <= steps_per_call
        assert [call.start for call in calls] == [start, *(call.stop for call in calls[:-1])]
        assert calls[-1].stop == stop
        for call in calls:  # the first and the last step are between the same borders
            assert call.start // border == (call.stop - 1) // border
        return [(call.bucket, tuple(rows)) for call in calls for rows in call.rows.tolist()]

    single = steps(1)
    assert len(single) == stop - start
    for steps_per_call in (2, 3, 8):
        assert steps(steps_per_call) == single
    assert single == list(steps_from_zero(plan, stop))[start:]


def steps_from_zero(plan: BatchPlan, stop: int) -> list[tuple]:
    calls = plan_calls(plan, 0, 0, stop, 1, 10_000)
    return [(call.bucket, tuple(call.rows[0].tolist())) for call in calls]


def test_most_calls_are_whole() -> None:
    plan = plan_of(buckets=3)
    calls = list(plan_calls(plan, 0, 0, 126 * 20, 8, 126 * 20))
    assert len(calls) < 1.25 * 126 * 20 / 8
