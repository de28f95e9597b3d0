"""Examples → batches of integers: length-bucketed, padded to few shapes, a pure function of a step.

The host sends users [B], histories [B, H] (item rows, most recent last, padding -1) and targets
[B]; tokens are looked up on the device. Examples are grouped by the number of tokens the encoder
will see, so that each bucket has one static shape (H items, T tokens) and compiles once.

Which examples batch number `step` holds follows from (seed, step) alone: a run that is stopped
and resumed sees the same batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from genrec_jax.data.sequences import Examples

Rows = Int[np.ndarray, " _"]  # numbers of examples
ALIGNMENT = 8  # token shapes are multiples of this


class Bucket(NamedTuple):
    """The static shape of a batch."""

    n_items: int  # H
    n_tokens: int  # T


class Batch(NamedTuple):
    """What goes to the device. A row that only fills the batch up has user -1."""

    users: Any  # int32 [B]: NumPy on the host, JAX inside jit
    histories: Any  # int32 [B, H]
    targets: Any  # int32 [B]


@dataclass(frozen=True)
class CutReport:
    """What the token limit cost: whole items, from the oldest end."""

    items: int
    histories: int


def cut_histories(
    examples: Examples, item_tokens: Int[np.ndarray, " N"], room: Int[np.ndarray, " n"]
) -> tuple[Examples, CutReport]:
    """Drop the oldest items of each history until its tokens fit into `room`.

    Args:
        examples: n histories.
        item_tokens: the number of tokens in every item's name.
        room: tokens that each history may take.
    """
    before = np.concatenate([[0], np.cumsum(item_tokens[examples.items], dtype=np.int64)])
    # The first item whose suffix up to the end fits: before[stop] - before[start] <= room.
    earliest = np.searchsorted(before, before[examples.stops] - room, side="left")
    starts = np.minimum(np.maximum(examples.starts, earliest), examples.stops)
    dropped = starts - examples.starts
    report = CutReport(items=int(dropped.sum()), histories=int((dropped > 0).sum()))
    kept = Examples(examples.items, examples.users, starts, examples.stops, examples.targets)
    return kept, report


def history_tokens(examples: Examples, item_tokens: Int[np.ndarray, " N"]) -> Int[np.ndarray, " n"]:
    """The number of tokens in the item names of each history."""
    before = np.concatenate([[0], np.cumsum(item_tokens[examples.items], dtype=np.int64)])
    return before[examples.stops] - before[examples.starts]


def choose_widths(n_tokens: Int[np.ndarray, " n"], buckets: int) -> list[int]:
    """At most `buckets` padded lengths that waste the fewest tokens on these examples.

    Exact, by dynamic programming over the multiples of ALIGNMENT: cost[k, j] is the least number
    of padded tokens for all examples no longer than edge j with k widths, the last of them edge j.
    """
    edges = np.arange(1, -(-int(n_tokens.max()) // ALIGNMENT) + 1) * ALIGNMENT
    below = np.searchsorted(np.sort(n_tokens), edges, side="right")  # examples no longer than edge
    counts = np.concatenate([[0], below])
    cost = np.where(np.arange(len(edges) + 1) == 0, 0.0, np.inf)
    choices = []
    for _ in range(min(buckets, len(edges))):
        # previous edge i (rows) → this edge j + 1 (columns)
        step = cost[:, None] + (counts[None, 1:] - counts[:, None]) * edges[None, :]
        step[np.arange(len(edges) + 1)[:, None] > np.arange(len(edges))[None, :]] = np.inf
        choices.append(np.argmin(step, axis=0))
        cost = np.concatenate([[0.0], np.min(step, axis=0)])
    widths, j = [], len(edges)
    for choice in reversed(choices):
        if j == 0:
            break
        widths.append(int(edges[j - 1]))
        j = int(choice[j - 1])
    return sorted(widths)


class BatchPlan:
    """Every example of a split exactly once an epoch, in batches of few shapes.

    Within a bucket the examples are shuffled anew each epoch (or kept in order, for evaluation),
    and what does not fill a batch moves on to the next larger bucket, so that one batch an epoch
    at most is not full.
    """

    def __init__(
        self,
        examples: Examples,
        n_tokens: Int[np.ndarray, " n"],
        batch_size: int,
        buckets: int,
        whole: Examples | None = None,
    ):
        """Group examples by length.

        Args:
            examples: what the encoder reads, histories cut to fit.
            n_tokens: the encoder tokens that each takes.
            batch_size: examples a batch.
            buckets: shapes at most.
            whole: the same examples with their histories whole, if any were cut.
        """
        self.examples = examples
        self._whole = whole or examples
        self.n_tokens = n_tokens
        self.batch_size = batch_size
        widths = choose_widths(n_tokens, buckets)
        lengths = examples.stops - examples.starts
        bucket_of = np.searchsorted(widths, n_tokens)
        self._members = [np.flatnonzero(bucket_of == b) for b in range(len(widths))]
        longest = [int(lengths[members].max(initial=1)) for members in self._members]
        # Examples move up to larger buckets, so a larger bucket also has at least as many items.
        self.buckets = [Bucket(max(1, *longest[: b + 1]), width) for b, width in enumerate(widths)]
        whole_lengths = self._whole.stops - self._whole.starts
        longest = [int(whole_lengths[members].max(initial=1)) for members in self._members]
        self._whole_widths = {
            bucket: max(1, *longest[: b + 1]) for b, bucket in enumerate(self.buckets)
        }
        self.steps_per_epoch = -(-len(examples) // batch_size)

    @property
    def padding_share(self) -> float:
        """Share of the encoder's tokens of an epoch that are padding."""
        groups = self._grouped(self._members)
        padded = sum(self.batch_size * self.buckets[b].n_tokens for b, _ in groups)
        return 1.0 - int(self.n_tokens.sum()) / padded

    def epoch(self, seed: int, epoch: int) -> list[tuple[Bucket, Rows]]:
        """The shuffled batches of an epoch, as (shape, rows of the examples)."""
        rng = np.random.default_rng([seed, epoch])
        groups = self._grouped([rng.permutation(members) for members in self._members])
        order = rng.permutation(len(groups))
        return [(self.buckets[groups[i][0]], groups[i][1]) for i in order]

    def in_order(self, start: int = 0, stop: int | None = None) -> list[tuple[Bucket, Rows]]:
        """The batches of one pass over examples `start` … `stop - 1`, shortest histories first."""
        stop = len(self.examples) if stop is None else stop
        inside = [
            members[np.searchsorted(members, start) : np.searchsorted(members, stop)]
            for members in self._members
        ]
        return [(self.buckets[b], rows) for b, rows in self._grouped(inside)]

    def training_batches(self, seed: int, start: int, stop: int) -> Iterator[tuple[Bucket, Batch]]:
        """Batches `start` … `stop - 1` of the endless sequence of epochs."""
        for epoch in range(start // self.steps_per_epoch, -(-stop // self.steps_per_epoch)):
            first = epoch * self.steps_per_epoch
            for step, (bucket, rows) in enumerate(self.epoch(seed, epoch), start=first):
                if start <= step < stop:
                    yield bucket, self.pad(bucket, rows)

    def pad(self, bucket: Bucket, rows: Rows) -> Batch:
        """The batch of m <= B examples, filled up to the bucket's shape."""
        examples = self.examples.take(rows)
        missing = self.batch_size - len(rows)
        return Batch(
            users=np.pad(examples.users, (0, missing), constant_values=-1).astype(np.int32),
            histories=_padded(examples, bucket.n_items, self.batch_size),
            targets=np.pad(examples.targets, (0, missing), constant_values=-1).astype(np.int32),
        )

    def whole_histories(self, bucket: Bucket, rows: Rows) -> Int[np.ndarray, "B W"]:
        """The items of each history with those that were cut, -1 for none; W goes by bucket."""
        return _padded(self._whole.take(rows), self._whole_widths[bucket], self.batch_size)

    def _grouped(self, members: list[Rows]) -> list[tuple[int, Rows]]:
        """Batches of the rows of each bucket, in their order."""
        groups = []
        left = np.empty(0, dtype=np.int64)
        for b, in_bucket in enumerate(members):
            rows = np.concatenate([left, in_bucket])
            full = len(rows) // self.batch_size * self.batch_size
            groups += [(b, rows[i : i + self.batch_size]) for i in range(0, full, self.batch_size)]
            left = rows[full:]
        if len(left):
            groups.append((len(members) - 1, left))
        return groups


def _padded(examples: Examples, width: int, height: int) -> Int[np.ndarray, "B H"]:
    """Histories as rows of `width`, -1 where there is none."""
    column = np.arange(width)
    inside = column < (examples.stops - examples.starts)[:, None]
    filled = np.full((height, width), -1, dtype=np.int32)
    filled[: len(examples)][inside] = examples.items[(examples.starts[:, None] + column)[inside]]
    return filled
