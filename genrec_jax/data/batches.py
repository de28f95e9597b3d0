"""Batches of integers from examples, bucketed by length and padded to few static shapes.

A batch has users [B], histories [B, H] (item rows, most recent last, padded with -1) and targets
[B]; tokens are looked up on the device. Examples are grouped by their number of encoder tokens, so
that each bucket has one static shape (H items, T tokens) and compiles once.

The examples of a batch depend on (seed, step) alone, so that a resumed run has the same batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from genrec_jax.data.sequences import Examples

Rows = Int[np.ndarray, " _"]  # row numbers of Examples
ALIGNMENT = 8  # padded lengths are multiples of this


class Bucket(NamedTuple):
    """The static shape of a batch."""

    n_items: int  # H
    n_tokens: int  # T


class Batch(NamedTuple):
    """The integers of a batch; padding rows have user -1."""

    users: Any  # int32 [B]: NumPy on the host, JAX inside jit
    histories: Any  # int32 [B, H]
    targets: Any  # int32 [B]


@dataclass(frozen=True)
class CutReport:
    """The number of items that were dropped because the encoder has too few positions."""

    items: int  # dropped items
    histories: int  # histories that lost items


def cut_histories(
    examples: Examples, item_tokens: Int[np.ndarray, " N"], max_tokens: Int[np.ndarray, " n"]
) -> tuple[Examples, CutReport]:
    """Drop the oldest items of each history until it has at most `max_tokens` tokens.

    Args:
        examples: n examples.
        item_tokens: the number of tokens of every item of the catalogue.
        max_tokens: the maximum number of item tokens of each history.

    Returns:
        The examples with truncated histories, and the number of dropped items.
    """
    before = np.concatenate([[0], np.cumsum(item_tokens[examples.items], dtype=np.int64)])
    # The first item whose suffix up to the end fits: before[stop] - before[start] <= max_tokens.
    earliest = np.searchsorted(before, before[examples.stops] - max_tokens, side="left")
    starts = np.minimum(np.maximum(examples.starts, earliest), examples.stops)
    dropped = starts - examples.starts
    report = CutReport(items=int(dropped.sum()), histories=int((dropped > 0).sum()))
    kept = Examples(examples.items, examples.users, starts, examples.stops, examples.targets)
    return kept, report


def history_tokens(examples: Examples, item_tokens: Int[np.ndarray, " N"]) -> Int[np.ndarray, " n"]:
    """Return the number of item tokens of each history.

    Args:
        examples: n examples.
        item_tokens: the number of tokens of every item of the catalogue.
    """
    before = np.concatenate([[0], np.cumsum(item_tokens[examples.items], dtype=np.int64)])
    return before[examples.stops] - before[examples.starts]


def choose_widths(n_tokens: Int[np.ndarray, " n"], buckets: int) -> list[int]:
    """Choose at most `buckets` padded lengths that minimise the padding of these examples.

    The solution is exact, by dynamic programming over the multiples of ALIGNMENT: cost[k, j] is the
    smallest number of padded tokens for all examples up to edge j with k widths, the last of which
    is edge j.

    Args:
        n_tokens: the number of encoder tokens of each example.
        buckets: the maximum number of widths.

    Returns:
        The widths in ascending order; the last one fits the longest example.
    """
    edges = np.arange(1, -(-int(n_tokens.max()) // ALIGNMENT) + 1) * ALIGNMENT
    below = np.searchsorted(np.sort(n_tokens), edges, side="right")  # examples up to each edge
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
    """The batches of a split: every example once per epoch, in few static shapes.

    Within a bucket, examples are reshuffled in each epoch (or kept in order, for evaluation).
    Examples that do not fill a batch move to the next larger bucket, so that at most one batch of
    an epoch is not full.
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
            examples: the examples, with histories truncated to fit the encoder.
            n_tokens: the number of encoder tokens of each example.
            batch_size: the number of examples per batch, B.
            buckets: the maximum number of static shapes.
            whole: the same examples with complete histories, if any were truncated.
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
        """The share of the encoder positions of an epoch that are padding, from 0 to 1."""
        groups = self._grouped(self._members)
        padded = sum(self.batch_size * self.buckets[b].n_tokens for b, _ in groups)
        return 1.0 - int(self.n_tokens.sum()) / padded

    def epoch(self, seed: int, epoch: int) -> list[tuple[Bucket, Rows]]:
        """Return the shuffled batches of an epoch as (shape, rows of the examples)."""
        rng = np.random.default_rng([seed, epoch])
        groups = self._grouped([rng.permutation(members) for members in self._members])
        order = rng.permutation(len(groups))
        return [(self.buckets[groups[i][0]], groups[i][1]) for i in order]

    def in_order(self, start: int = 0, stop: int | None = None) -> list[tuple[Bucket, Rows]]:
        """Return the batches of examples `start` … `stop - 1`, bucket by bucket, shortest first.

        Args:
            start: the first example.
            stop: the example after the last one; None: all examples.

        Returns:
            (shape, rows of the examples) of each batch.
        """
        stop = len(self.examples) if stop is None else stop
        inside = [
            members[np.searchsorted(members, start) : np.searchsorted(members, stop)]
            for members in self._members
        ]
        return [(self.buckets[b], rows) for b, rows in self._grouped(inside)]

    def training_batches(self, seed: int, start: int, stop: int) -> Iterator[tuple[Bucket, Batch]]:
        """Yield batches `start` … `stop - 1` of the endless sequence of shuffled epochs.

        Args:
            seed: seed of the shuffling.
            start: the first batch, counted from the start of epoch 0.
            stop: the batch after the last one.
        """
        for epoch in range(start // self.steps_per_epoch, -(-stop // self.steps_per_epoch)):
            first = epoch * self.steps_per_epoch
            for step, (bucket, rows) in enumerate(self.epoch(seed, epoch), start=first):
                if start <= step < stop:
                    yield bucket, self.pad(bucket, rows)

    def pad(self, bucket: Bucket, rows: Rows) -> Batch:
        """Return m <= B examples as a batch, padded to the bucket's shape."""
        examples = self.examples.take(rows)
        missing = self.batch_size - len(rows)
        return Batch(
            users=np.pad(examples.users, (0, missing), constant_values=-1).astype(np.int32),
            histories=_padded(examples, bucket.n_items, self.batch_size),
            targets=np.pad(examples.targets, (0, missing), constant_values=-1).astype(np.int32),
        )

    def whole_histories(self, bucket: Bucket, rows: Rows) -> Int[np.ndarray, "B W"]:
        """Return complete histories as item rows [B, W], padded with -1; W depends on the bucket.

        They include the items that were dropped to fit the encoder.
        """
        return _padded(self._whole.take(rows), self._whole_widths[bucket], self.batch_size)

    def _grouped(self, members: list[Rows]) -> list[tuple[int, Rows]]:
        """Split the rows of each bucket into (bucket, rows of one batch), in their order.

        Rows that do not fill a batch move to the next bucket.
        """
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
    """Return histories as rows of `width` items, padded with -1 to `height` rows."""
    column = np.arange(width)
    is_item = column < (examples.stops - examples.starts)[:, None]
    rows = np.full((height, width), -1, dtype=np.int32)
    rows[: len(examples)][is_item] = examples.items[(examples.starts[:, None] + column)[is_item]]
    return rows
