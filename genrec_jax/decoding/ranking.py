"""Rank the items for many histories, chunk by chunk, in the order of the examples.

A chunk is several thousand consecutive examples. Within a chunk, batches are formed by length, and
all rankings of the chunk are returned together, so that the caller can write and discard them.
Memory is bounded by the chunk, and an interrupted ranking resumes with its first missing chunk.

Axes: B users in a batch, H items of history, W items of the whole history, N items, k items of a
ranking, n examples of a chunk.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from genrec_jax.core.devices import Devices
from genrec_jax.core.processes import barrier, count
from genrec_jax.data.batches import Batch, BatchPlan
from genrec_jax.decoding.beam_search import Decoder, SearchSpec, beam_search
from genrec_jax.decoding.exhaustive import Blocks, best_items, score_items
from genrec_jax.models.contract import Objective, Params, Writer, merge
from genrec_jax.models.device_trie import DeviceTrie
from genrec_jax.models.tables import Tables

CHUNK = 16_384  # examples


class Rankings(NamedTuple):
    """The top-k items of n examples and their scores, best first.

    Free search may find fewer than k items; the remaining positions have item -1 and score -inf.
    """

    items: Int[np.ndarray, "n k"]
    scores: Float[np.ndarray, "n k"]  # log-probabilities in nats


# (model, its tables, the output of `encode`, seen items [B, W] or None, the catalogue) → items
# [B, k], scores [B, k]
Search = Callable[[Any, Tables, Any, Any, Any], tuple[jax.Array, jax.Array]]
# (params, batch, seen items [B, W] or None, encoder positions) → items [B, k], scores [B, k]
Rank = Callable[[Params, Batch, Any, int], tuple[jax.Array, jax.Array]]
# (batches, label, number of batches) → the same batches, with progress shown or stops checked
Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]


def find_by_beams(spec: SearchSpec, top_k: int) -> Search:
    """Return a Search that runs beam search over a DeviceTrie.

    Args:
        spec: the search settings.
        top_k: the number of items to return, at most `spec.beams`.
    """

    def find(
        model: Any, tables: Tables, memory: Any, seen: Int[Array, "B W"] | None, trie: DeviceTrie
    ) -> tuple[jax.Array, jax.Array]:
        writer: Writer = model.writer(tables, memory)
        decoder = Decoder(writer.start, writer.extend, writer.reorder, writer.child_log_probs)
        result = beam_search(decoder, trie, spec, seen)
        return result.items[:, :top_k], result.scores[:, :top_k]

    return find


def find_exhaustively(spec: SearchSpec, top_k: int) -> Search:
    """Return a Search that scores all items and returns the exact top-k.

    Its catalogue argument is Blocks, or None for a model that does not generate identifiers.

    Args:
        spec: the search settings; only the length penalty is used.
        top_k: the number of items to return.
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
    """Return all items in catalogue order with their log-probabilities, without ranking."""
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
    find: Search,
    catalogue: DeviceTrie | Blocks | None,
    objective: Objective,
    devices: Devices | None = None,
) -> Rank:
    """Return the jitted `rank(params, batch, seen, length)`; each batch shape compiles once.

    It expects parameters from `models.precision.cast_params`, so that they are not cast in every
    batch. Float32 parameters give the same results but are slower.

    Args:
        graph: the model's graph definition.
        tables: the model's tables, on the devices; several rankers may share them.
        find: the search.
        catalogue: the catalogue in the form that `find` expects, on the devices; several rankers
            may share it.
        objective: the objective to rank by, one of the values of `RANKING_OBJECTIVE`.
        devices: each ranks its share of a batch, and the result is gathered on all of them; None:
            all devices.
    """
    placed = devices or Devices.all()

    @partial(jax.jit, static_argnums=3, out_shardings=placed.replicated)
    def rank(
        params: Params,
        batch: Batch,
        seen: Int[Array, "B W"] | None,
        length: int,
        tables: Tables,
        catalogue: DeviceTrie | Blocks | None,
    ) -> tuple[jax.Array, jax.Array]:
        model = merge(graph, params)
        inputs = model.make_inputs(tables, batch, objective, length)
        memory = model.encode(tables, inputs.encoder_input)

        def search(params: Params, examples: Any, whole: Any) -> tuple[jax.Array, jax.Array]:
            (memory, seen), (tables, catalogue) = examples, whole
            return find(merge(graph, params), tables, memory, seen, catalogue)

        return placed.per_device(search, params)(params, (memory, seen), (tables, catalogue))

    def rank_on_devices(
        params: Params, batch: Batch, seen: Any, length: int
    ) -> tuple[jax.Array, jax.Array]:
        batch, seen = placed.put((batch, seen), placed.rows())
        shapes = (batch.histories.shape, length, None if seen is None else seen.shape)
        with jax.set_mesh(placed.mesh):
            if count() > 1 and shapes not in compiled:  # gloo times out during long compilations
                arguments = (params, batch, seen, length, tables, catalogue)
                barrier(lambda: rank.lower(*arguments).compile())
                compiled.add(shapes)
            return rank(params, batch, seen, length, tables, catalogue)

    compiled: set[Any] = set()  # shapes that all processes have compiled, now in the cache
    return rank_on_devices


def rank_chunks(
    rank: Rank,
    params: Params,
    plan: BatchPlan,
    chunks: list[tuple[int, int]],
    exclude_history: bool,
    watch: Watch,
    label: str,
) -> Iterator[tuple[int, Rankings]]:
    """Yield the rankings of each chunk as (start of the chunk, rankings).

    A batch's result is fetched only after the next batch is dispatched, also across chunks, so the
    device never waits for the host.

    Args:
        rank: the ranker, from `make_ranker`.
        params: the model's parameters, as `rank` expects them.
        plan: the batches of all examples.
        chunks: (start, stop) of each chunk to rank.
        exclude_history: whether to exclude the items of each user's whole history, including those
            that the input length truncates.
        watch: wraps the batches to show progress.
        label: the label of the progress display.
    """
    batches = [
        (chunk, *batch) for chunk in chunks for batch in plan.in_order(*chunk)
    ]  # (chunk, bucket, rows)

    def dispatched() -> Iterator[tuple[tuple[int, int], np.ndarray, Any]]:
        previous = None
        for chunk, bucket, rows in watch(batches, label, len(batches)):
            seen = plan.whole_histories(bucket, rows) if exclude_history else None
            result = rank(params, plan.pad(bucket, rows), seen, bucket.n_tokens)
            if previous:
                yield previous
            previous = (chunk, rows, result)
        if previous:
            yield previous

    rankings, missing = None, 0
    for (start, stop), rows, result in dispatched():
        items, scores = (np.asarray(part)[: len(rows)] for part in jax.device_get(result))
        if rankings is None:
            missing = stop - start
            rankings = empty_rankings(missing, items.shape[1])
        rankings.items[rows - start] = items
        rankings.scores[rows - start] = np.where(items >= 0, scores, -np.inf)
        missing -= len(rows)
        if missing == 0:
            yield start, rankings
            rankings = None


def empty_rankings(n: int, k: int) -> Rankings:
    """Return rankings [n, k] without items: -1 with score -inf."""
    return Rankings(np.full((n, k), -1, np.int32), np.full((n, k), -np.inf, np.float32))


def split_into_chunks(n: int, size: int = CHUNK) -> list[tuple[int, int]]:
    """Return (start, stop) of each chunk of up to `size` of n examples."""
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def join(chunks: Iterable[tuple[int, Rankings]]) -> Rankings:
    """Concatenate the rankings of all chunks, given as (start, rankings), in order of start."""
    parts = [rankings for _, rankings in sorted(chunks, key=lambda chunk: chunk[0])]
    return Rankings(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
