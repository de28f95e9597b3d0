"""Many histories → a ranked list each, chunk by chunk in the order asked for.

A chunk is some thousand consecutive examples. Inside it they go to the device by length, and its
lists come back together, so that they can be written and forgotten: memory is bounded by the chunk,
and a ranking that is cut short goes on with the chunk it was at.

Axes: B users in a batch, H items of history, W items of the whole history, k length of a list.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from genrec_jax.core.devices import Devices
from genrec_jax.core.processes import count, together
from genrec_jax.data.batches import Batch, BatchPlan
from genrec_jax.decoding.beam_search import Decoder, SearchSpec, beam_search
from genrec_jax.decoding.exhaustive import Blocks, best_items, score_items
from genrec_jax.models.contract import Objective, Params, Writer, merge
from genrec_jax.models.device_trie import DeviceTrie
from genrec_jax.models.tables import Tables

CHUNK = 16_384  # examples


class RankedLists(NamedTuple):
    """Best first. Free search may name fewer than k items: -1 with score -inf from there."""

    items: Int[np.ndarray, "n k"]
    scores: Float[np.ndarray, "n k"]  # log-probabilities in nats


# (model, its tables, what it has read, seen items [B, W] or None, the catalogue) → items [B, k],
# scores [B, k]
Find = Callable[[Any, Tables, Any, Any, Any], tuple[jax.Array, jax.Array]]
# (params, batch, seen items [B, W] or None, T) → items [B, k], scores [B, k]
Rank = Callable[[Params, Batch, Any, int], tuple[jax.Array, jax.Array]]
Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]


def find_by_beams(spec: SearchSpec, top_k: int) -> Find:
    """Beam search over a DeviceTrie."""

    def find(
        model: Any, tables: Tables, memory: Any, seen: Int[Array, "B W"] | None, trie: DeviceTrie
    ) -> tuple[jax.Array, jax.Array]:
        writer: Writer = model.writer(tables, memory)
        decoder = Decoder(writer.start, writer.extend, writer.reorder, writer.child_log_probs)
        found = beam_search(decoder, trie, spec, seen)
        return found.items[:, :top_k], found.scores[:, :top_k]

    return find


def find_exhaustively(spec: SearchSpec, top_k: int) -> Find:
    """The exact best of all items, with the final scores of `spec`.

    The catalogue comes as Blocks, or None for a model that writes no identifiers.
    """

    def find(
        model: Any,
        tables: Tables,
        memory: Any,
        seen: Int[Array, "B W"] | None,
        blocks: Blocks | None,
    ) -> tuple[jax.Array, jax.Array]:
        scores = _score_all(model, tables, memory, blocks)
        if blocks is not None:
            scores = spec.final_score(scores, blocks.leaf_levels)
        return best_items(scores, top_k, seen)

    return find


def score_all(
    model: Any, tables: Tables, memory: Any, seen: Any, blocks: Blocks | None
) -> tuple[jax.Array, jax.Array]:
    """A Find that ranks nothing: all items in their own order, with their log-probabilities."""
    scores = _score_all(model, tables, memory, blocks)
    items = jnp.arange(scores.shape[1], dtype=jnp.int32)
    return jnp.broadcast_to(items, scores.shape), scores


def _score_all(
    model: Any, tables: Tables, memory: Any, blocks: Blocks | None
) -> Float[Array, "B N"]:
    if blocks is None:
        return model.item_scores(tables, memory)
    writer: Writer = model.writer(tables, memory)
    return score_items(writer.block_states, writer.edge_log_probs, blocks)


def make_ranker(
    graph: Any,
    tables: Tables,
    find: Find,
    catalogue: DeviceTrie | Blocks | None,
    objective: Objective,
    devices: Devices | None = None,
) -> Rank:
    """`rank(params, batch, seen, length)`, jitted; each batch shape compiles once.

    The parameters are those of `models.precision.cast_params`, so that no batch casts them. With
    the float32 ones the results are the same, later.

    Args:
        graph: of the model.
        tables: of the model, on the devices, like `catalogue`, which several rankers may share.
        find: the search.
        catalogue: what `find` searches.
        objective: how the model is asked for the item after a history, of `RANKED_AS`.
        devices: each ranks its share of a batch, and the lists come together on all; None: all.
    """
    on = devices or Devices.all()

    @partial(jax.jit, static_argnums=3, out_shardings=on.whole)
    def rank(
        params: Params,
        batch: Batch,
        seen: Int[Array, "B W"] | None,
        length: int,
        tables: Tables,
        catalogue: DeviceTrie | Blocks | None,
    ) -> tuple[jax.Array, jax.Array]:
        model = merge(graph, params)
        read = model.make_inputs(tables, batch, objective, length).read
        memory = model.encode(tables, read)

        def search(params: Params, examples: Any, whole: Any) -> tuple[jax.Array, jax.Array]:
            (memory, seen), (tables, catalogue) = examples, whole
            return find(merge(graph, params), tables, memory, seen, catalogue)

        return on.apart(search, params)(params, (memory, seen), (tables, catalogue))

    def rank_on_devices(
        params: Params, batch: Batch, seen: Any, length: int
    ) -> tuple[jax.Array, jax.Array]:
        batch, seen = on.put((batch, seen), on.rows())
        shapes = (batch.histories.shape, length, None if seen is None else seen.shape)
        with jax.set_mesh(on.mesh):
            if count() > 1 and shapes not in ready:  # gloo does not wait for long
                arguments = (params, batch, seen, length, tables, catalogue)
                together(lambda: rank.lower(*arguments).compile())
                ready.add(shapes)
            return rank(params, batch, seen, length, tables, catalogue)

    ready: set[Any] = set()  # what all processes have compiled and find in the cache
    return rank_on_devices


def rank_chunks(
    rank: Rank,
    params: Params,
    plan: BatchPlan,
    chunks: list[tuple[int, int]],
    exclude_history: bool,
    watch: Watch,
    label: str,
) -> Iterator[tuple[int, RankedLists]]:
    """The lists of each chunk of the plan's examples, as (start of the chunk, lists).

    A batch is fetched only after the next has been handed to the device, across chunks too, so
    that the device never waits for the host.

    Args:
        rank: from `make_ranker`.
        params: of the model, as the ranker takes them.
        plan: of all examples.
        chunks: (start, stop) of each.
        exclude_history: leave out the items of each history, those beyond the token limit too.
        watch: wraps the batches, to show progress.
        label: for `watch`.
    """
    batches = [
        (chunk, *batch) for chunk in chunks for batch in plan.in_order(*chunk)
    ]  # (chunk, bucket, rows)

    def launched() -> Iterator[tuple[tuple[int, int], np.ndarray, Any]]:
        waiting = None
        for chunk, bucket, rows in watch(batches, label, len(batches)):
            seen = plan.whole_histories(bucket, rows) if exclude_history else None
            found = rank(params, plan.pad(bucket, rows), seen, bucket.n_tokens)
            if waiting:
                yield waiting
            waiting = (chunk, rows, found)
        if waiting:
            yield waiting

    lists, missing = None, 0
    for (start, stop), rows, found in launched():
        items, scores = (np.asarray(part)[: len(rows)] for part in jax.device_get(found))
        if lists is None:
            shape = (stop - start, items.shape[1])
            lists = RankedLists(np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32))
            missing = stop - start
        lists.items[rows - start] = items
        lists.scores[rows - start] = np.where(items >= 0, scores, -np.inf)
        missing -= len(rows)
        if missing == 0:
            yield start, lists
            lists = None


def split_into_chunks(n: int, size: int = CHUNK) -> list[tuple[int, int]]:
    """(start, stop) of each chunk of n examples."""
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def join(chunks: Iterable[tuple[int, RankedLists]]) -> RankedLists:
    """The lists of all chunks, in order."""
    parts = [lists for _, lists in sorted(chunks, key=lambda chunk: chunk[0])]
    return RankedLists(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
