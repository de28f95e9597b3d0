"""Which batches one call of the jitted step trains on, a pure function of (seed, step).

A program has one static shape, so that the steps of a call must share a bucket. An epoch's batches
are therefore taken in runs of up to RUN of one bucket; the runs come in random order. The order is
the same however many steps a call makes, and a call ends where the bucket changes, at a validation
and at the end of the epoch and the phase: training can stop and go on at any step.

Axes: B examples a batch, n steps a call.
"""

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from genrec_jax.data.batches import BatchPlan, Bucket, Rows

# Batches of one bucket one after the other, and the most that config.steps_per_dispatch may be.
RUN = 8


class Call(NamedTuple):
    """n steps, at most `steps_per_call`."""

    bucket: Bucket
    rows: Int[np.ndarray, "n B"]  # of the examples, -1 where a batch is not full
    start: int  # steps of the phase before it

    @property
    def stop(self) -> int:
        return self.start + len(self.rows)


def epoch_order(plan: BatchPlan, seed: int, epoch: int) -> list[tuple[Bucket, Rows]]:
    """The shuffled batches of an epoch, those of a bucket in runs.

    A run stands where the middle one of its batches stood in the shuffled order. With one bucket
    that is the shuffled order itself.
    """
    shuffled = plan.epoch(seed, epoch)
    places: dict[Bucket, list[int]] = {}
    for place, (bucket, _) in enumerate(shuffled):
        places.setdefault(bucket, []).append(place)
    runs = [own[i : i + RUN] for own in places.values() for i in range(0, len(own), RUN)]
    runs.sort(key=lambda run: run[len(run) // 2])
    return [shuffled[place] for run in runs for place in run]


def plan_calls(
    plan: BatchPlan, seed: int, start: int, stop: int, steps_per_call: int, border: int
) -> Iterator[Call]:
    """Steps `start` … `stop - 1` of the endless sequence of epochs.

    Args:
        plan: of the phase.
        seed: of the run.
        start: the first step.
        stop: the end of the phase.
        steps_per_call: at most.
        border: no call crosses a multiple of it.
    """
    per_epoch = plan.steps_per_epoch
    for epoch in range(start // per_epoch, -(-stop // per_epoch)):
        batches = epoch_order(plan, seed, epoch)
        first = epoch * per_epoch
        step, end = max(start, first), min(stop, first + per_epoch)
        while step < end:
            longest = min(steps_per_call, end - step, border - step % border)
            group = batches[step - first : step - first + longest]
            bucket = group[0][0]
            same = takewhile(lambda batch, bucket=bucket: batch[0] == bucket, group)
            rows = np.stack([padded(part, plan.batch_size) for _, part in same])
            yield Call(bucket, rows, step)
            step += len(rows)


def padded(rows: Rows, size: int) -> Rows:
    return np.pad(rows, (0, size - len(rows)), constant_values=-1).astype(np.int32)
