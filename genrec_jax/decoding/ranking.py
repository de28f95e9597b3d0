"""Many histories → a ranked list each: batches in, beam search, lists back in the order asked."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from genrec_jax.data.batches import Batch, BatchPlan, Bucket
from genrec_jax.decoding.beam_search import DeviceTrie, Search, SearchResult, beam_search
from genrec_jax.model.genrec import DecoderCache, Params, merge
from genrec_jax.model.inputs import DeviceTable, append_mask, encoder_input


class RankedLists(NamedTuple):
    """Best first. Free search may name fewer than top_k items: -1 with score -inf from there."""

    items: Int[np.ndarray, "n top_k"]
    scores: Float[np.ndarray, "n top_k"]  # log-probabilities in nats


Rank = Callable[[Params, Batch, int], tuple[jax.Array, jax.Array]]


def make_ranker(
    graph: Any, table: DeviceTable, trie: DeviceTrie, search: Search, beams: int, top_k: int
) -> Rank:
    """`rank(params, batch, n_tokens)` → items [B, top_k] and scores [B, top_k], jitted."""

    def reorder(cache: DecoderCache, rows: Int[Array, " BK"]) -> DecoderCache:
        return cache._replace(own=jax.tree.map(lambda leaf: leaf[rows], cache.own))

    @partial(jax.jit, static_argnums=2)
    def rank(params: Params, batch: Batch, n_tokens: int) -> tuple[jax.Array, jax.Array]:
        items = append_mask(batch.histories, table.mask_row)
        sentence = encoder_input(table, batch.users, items, n_tokens)
        model = merge(graph, params)
        found: SearchResult = beam_search(
            model.decode_step,
            reorder,
            model.start_decoding(sentence, beams, trie.depth),
            trie,
            users=batch.users.shape[0],
            beams=beams,
            eos=table.eos,
            pad=table.pad,
            search=search,
        )
        return found.items[:, :top_k], found.scores[:, :top_k]

    return rank


def rank_all(
    rank: Rank,
    params: Params,
    plan: BatchPlan,
    batches: Iterable[tuple[Bucket, Int[np.ndarray, " m"]]],
    top_k: int,
) -> RankedLists:
    """The lists of the plan's examples, in the plan's order of examples.

    `batches` are `plan.in_order()`, perhaps wrapped to show progress. A batch is fetched only
    after the next has been handed to the device, so that the device never waits for the host.
    """
    n = len(plan.examples)
    lists = RankedLists(np.full((n, top_k), -1, np.int32), np.full((n, top_k), -np.inf, np.float32))

    def fetch(rows: np.ndarray, found: tuple[jax.Array, jax.Array]) -> None:
        items, scores = jax.device_get(found)
        lists.items[rows] = items[: len(rows)]
        lists.scores[rows] = np.where(items >= 0, scores, -np.inf)[: len(rows)]

    waiting = None
    for bucket, rows in batches:
        found = rank(params, plan.pad(bucket, rows), bucket.n_tokens)
        if waiting:
            fetch(*waiting)
        waiting = (rows, found)
    if waiting:
        fetch(*waiting)
    return lists
