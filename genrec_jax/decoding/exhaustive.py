"""The exact log-probability of every item of the catalogue, and so the exact top-k.

A name's probability is a product over the edges of its path in the trie, so each inner node is
decoded once for all the names that begin with it. Inner nodes are taken in preorder, in blocks of a
fixed number of nodes; the ancestors that a block lacks are those of its first node alone, so that
a block with that one path in front is complete. One block is one pass of the decoder under the
mask "itself and its ancestors".

Cost a user: the inner nodes (about N + N/11 for numbers in BART's tokens, where nearly every item
has its own last inner node) times one token of the decoder and one softmax. Memory: the logits of
one block, B * n * V floats, which a family bounds by `Family.block_nodes`, and B * M scores.

Axes: B users, N items, M nodes, G blocks, n nodes of a block, E edges out of a block,
V vocabulary, H items of history.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from genrec_jax.identifiers.trie import Trie

# (tokens [n], nodes [n], levels [n], visible [n, n]) → states [B, n, …]
TreeStates = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
# (states [B, n, …], nodes [n], slots [E], nodes that edges end at [E], their tokens [E]) →
# log-probabilities of the edges [B, E]
EdgeLogProbs = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array, jax.Array],
    jax.Array,
]


class Block(NamedTuple):
    """Some inner nodes, in slots, and the edges that leave from them; G of them one a row."""

    tokens: Int[Array, "*G n"]  # what the decoder reads at each node
    nodes: Int[Array, "*G n"]
    levels: Int[Array, "*G n"]
    parents: Int[Array, "*G n"]  # slot of the parent, -1: none
    edge_slots: Int[Array, "*G E"]  # where each edge starts
    edge_ends: Int[Array, "*G E"]  # the node that each leads to
    edge_tokens: Int[Array, "*G E"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blocks:
    """The inner nodes of a trie in blocks; each node's edges leave from one block."""

    rows: Block  # [G, …]
    edge_of_node: Int[Array, " M"]  # the flat place (g * E + e) of the edge that leads to a node
    node_parents: Int[Array, " M"]
    leaves: Int[Array, " N"]
    leaf_levels: Int[Array, " N"]
    # The number of nodes down to each level, the root's included; compiled in.
    level_stops: tuple[int, ...] = field(metadata={"static": True})


def make_blocks(trie: Trie, eos: int, size: int) -> Blocks:
    """Cut the trie into blocks of `size` nodes and the path that leads to them."""
    level_stops = trie.level_starts[1:]
    order = _inner_preorder(trie, level_stops)
    level = np.repeat(np.arange(len(level_stops)), np.diff([0, *level_stops]))
    reads = np.where(trie.tokens >= 0, trie.tokens, eos)  # the decoder starts with `</s>`
    n = min(size, len(order)) + trie.depth - 1
    starts = range(0, len(order), size)
    shape = (len(starts), n)
    tokens, members, levels, parents = (np.full(shape, fill, np.int32) for fill in (eos, 0, 0, -1))
    slot = np.full(trie.n_nodes, -1)
    edges: list[tuple[np.ndarray, np.ndarray]] = []
    for g, start in enumerate(starts):
        chunk = order[start : start + size]
        path = [int(chunk[0])]
        while path[-1] != 0:
            path.append(int(trie.parents[path[-1]]))
        nodes = np.concatenate([path[:0:-1], chunk]).astype(np.int64)
        slot[nodes] = np.arange(len(nodes))
        tokens[g, : len(nodes)] = reads[nodes]
        members[g, : len(nodes)] = nodes
        levels[g, : len(nodes)] = level[nodes]
        above = trie.parents[nodes]
        parents[g, : len(nodes)] = np.where(above >= 0, slot[above], -1)
        counts = trie.n_children[chunk]
        first = np.repeat(trie.first_child[chunk], counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        edges.append((np.repeat(slot[chunk], counts), first + within))

    width = max(len(ends) for _, ends in edges)
    edge_slots, edge_ends, edge_tokens = (
        np.zeros((len(starts), width), np.int32) for _ in range(3)
    )
    edge_of_node = np.zeros(trie.n_nodes, np.int32)
    for g, (slots, ends) in enumerate(edges):
        edge_slots[g, : len(slots)] = slots
        edge_ends[g, : len(ends)] = ends
        edge_tokens[g, : len(ends)] = trie.tokens[ends]
        edge_of_node[ends] = g * width + np.arange(len(ends))
    arrays = (tokens, members, levels, parents, edge_slots, edge_ends, edge_tokens)
    rest = (edge_of_node, trie.parents, trie.leaves, trie.leaf_levels)
    rows = Block(*map(jnp.asarray, arrays))
    return Blocks(rows, *map(jnp.asarray, rest), level_stops=level_stops)


def score_items(
    states_of: TreeStates, edge_log_probs: EdgeLogProbs, blocks: Blocks
) -> Float[Array, "B N"]:
    """The log-probability of every item's name, as far as the trie goes."""

    def edges_of(block: Block) -> Float[Array, "B E"]:
        visible = _visible(block.parents, len(blocks.level_stops))
        states = states_of(block.tokens, block.nodes, block.levels, visible)
        edges = (block.edge_slots, block.edge_ends, block.edge_tokens)
        return edge_log_probs(states, block.nodes, *edges)

    by_block = jax.lax.map(edges_of, blocks.rows)  # [G, B, E]
    users = by_block.shape[1]
    edges = jnp.swapaxes(by_block, 0, 1).reshape(users, -1)[:, blocks.edge_of_node]
    total = jnp.zeros((users, 1))
    for start, stop in zip(blocks.level_stops[:-1], blocks.level_stops[1:], strict=True):
        above = total[:, blocks.node_parents[start:stop]]
        total = jnp.concatenate([total, above + edges[:, start:stop]], axis=1)
    return total[:, blocks.leaves]


def best_items(
    scores: Float[Array, "B N"], k: int, seen: Int[Array, "B H"] | None = None
) -> tuple[Int[Array, "B k"], Float[Array, "B k"]]:
    """The k best items of each user; -1 with -inf where there are fewer.

    Args:
        scores: of every item.
        k: length of the list.
        seen: items to leave out for each user, -1 for none.
    """
    users, n_items = scores.shape
    if seen is not None:
        place = jnp.where(seen >= 0, seen, n_items)  # out of bounds: dropped
        scores = scores.at[jnp.arange(users)[:, None], place].set(-jnp.inf, mode="drop")
    padded = jnp.pad(scores, ((0, 0), (0, max(0, k - n_items))), constant_values=-jnp.inf)
    best, items = jax.lax.top_k(padded, k)
    return jnp.where(jnp.isfinite(best), items, -1), best


def _visible(parents: Int[Array, " n"], depth: int) -> Array:
    """[n, n]: each node sees itself and its ancestors."""
    slots = jnp.arange(len(parents))
    ancestor = slots
    visible = ancestor[:, None] == slots
    for _ in range(depth):
        ancestor = jnp.where(ancestor >= 0, parents[ancestor], -1)
        visible |= ancestor[:, None] == slots
    return visible


def _inner_preorder(trie: Trie, level_stops: tuple[int, ...]) -> Int[np.ndarray, " inner"]:
    """The inner nodes, each before its children and all below it before its next sibling."""
    levels = list(zip((0, *level_stops[:-1]), level_stops, strict=True))
    size = (trie.items < 0).astype(np.int64)  # inner nodes of each subtree
    for start, stop in reversed(levels[1:]):
        np.add.at(size, trie.parents[start:stop], size[start:stop])
    number = np.zeros(trie.n_nodes, np.int64)
    before = np.cumsum(size) - size  # of all nodes of lower number; only differences are used
    for start, stop in levels[1:]:
        parent = trie.parents[start:stop]
        number[start:stop] = (
            number[parent] + 1 + before[start:stop] - before[trie.first_child[parent]]
        )
    inner = np.flatnonzero(trie.items < 0)
    return inner[np.argsort(number[inner])]
