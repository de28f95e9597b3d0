"""The batches of each multi-step dispatch, a pure function of (seed, step).

A compiled program has one static shape, so all steps of a dispatch share a bucket. An epoch's
batches are therefore trained in segments of up to SEGMENT batches of one bucket, and the segments
are shuffled. The order does not depend on the number of steps per dispatch. A dispatch ends where
the bucket changes, at a validation, and at the end of the epoch and of the phase, so training can
stop and resume at any step.

Axes: B examples in a batch, n steps in a dispatch.
"""

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from genrec_jax.data.batches import BatchPlan, Bucket, Rows

# Batches in a bucket segment, and the largest value of config.steps_per_dispatch.
SEGMENT = 8


class Dispatch(NamedTuple):
    """The n steps that the device runs before it returns to the host."""

    bucket: Bucket
    rows: Int[np.ndarray, "n B"]  # rows of the examples, -1 where a batch is not full
    start: int  # steps of the phase before this dispatch

    @property
    def stop(self) -> int:
        """The steps of the phase up to the end of this dispatch."""
        return self.start + len(self.rows)


def epoch_order(plan: BatchPlan, seed: int, epoch: int) -> list[tuple[Bucket, Rows]]:
    """Return the shuffled batches of an epoch, grouped into bucket segments.

    A segment takes the position that its middle batch had in the shuffled order. With one bucket
    the result is the shuffled order itself.
    """
    shuffled = plan.epoch(seed, epoch)
    by_bucket: dict[Bucket, list[int]] = {}
    for position, (bucket, _) in enumerate(shuffled):
        by_bucket.setdefault(bucket, []).append(position)
    segments = [
        positions[i : i + SEGMENT]
        for positions in by_bucket.values()
        for i in range(0, len(positions), SEGMENT)
    ]
    segments.sort(key=lambda segment: segment[len(segment) // 2])
    return [shuffled[position] for segment in segments for position in segment]


def plan_dispatches(
    plan: BatchPlan, seed: int, start: int, stop: int, steps_per_dispatch: int, border: int
) -> Iterator[Dispatch]:
    """Yield the dispatches of steps `start` … `stop - 1` of the endless sequence of epochs.

    Args:
        plan: the batches of the phase.
        seed: the run's seed.
        start: the first step.
        stop: the step after the last one.
        steps_per_dispatch: the most steps of a dispatch.
        border: no dispatch crosses a multiple of this number of steps.
    """
    per_epoch = plan.steps_per_epoch
    for epoch in range(start // per_epoch, -(-stop // per_epoch)):
        batches = epoch_order(plan, seed, epoch)
        first = epoch * per_epoch
        step, end = max(start, first), min(stop, first + per_epoch)
        while step < end:
            longest = min(steps_per_dispatch, end - step, border - step % border)
            group = batches[step - first : step - first + longest]
            bucket = group[0][0]
            same = takewhile(lambda batch, bucket=bucket: batch[0] == bucket, group)
            rows = np.stack([padded(part, plan.batch_size) for _, part in same])
            yield Dispatch(bucket, rows, step)
            step += len(rows)


def padded(rows: Rows, size: int) -> Rows:
    """Pad the rows of a batch with -1 to `size`."""
    return np.pad(rows, (0, size - len(rows)), constant_values=-1).astype(np.int32)
