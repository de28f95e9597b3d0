"""The exact log-probability of every item of the catalogue, and the exact top-k.

The probability of an identifier is a product over the edges of its path in the trie, so each inner
node is decoded once for all identifiers that share it. Inner nodes are processed in preorder, in
blocks of a fixed number of nodes. The only ancestors missing from a block are those of its first
node, so each block is preceded by the path to that node. One block is one pass of the decoder with
an attention mask under which each node attends to itself and its ancestors.

Cost per user: one decoder token and one softmax for each inner node (about N + N/11 inner nodes for
numbers in BART's tokens, where nearly every item has an inner node that no other item shares).
Memory: the logits of one block, B * n * V floats, which a family bounds by `Family.block_nodes`,
and B * M scores.

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
# (states [B, n, …], nodes [n], index in `nodes` where each edge starts [E], trie node where each
# edge ends [E], token of each edge [E]) → log-probabilities of the edges [B, E]
EdgeLogProbs = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array, jax.Array],
    jax.Array,
]


class Block(NamedTuple):
    """The inner nodes of one block and the edges that leave them; [G, …] for G blocks."""

    tokens: Int[Array, "*G n"]  # the decoder's input token at each node
    nodes: Int[Array, "*G n"]  # trie nodes
    levels: Int[Array, "*G n"]  # number of tokens before each node's token
    parents: Int[Array, "*G n"]  # index of the parent in the block, -1: none
    edge_starts: Int[Array, "*G E"]  # index in the block of the node where each edge starts
    edge_ends: Int[Array, "*G E"]  # trie node where each edge ends
    edge_tokens: Int[Array, "*G E"]  # token of each edge


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blocks:
    """The inner nodes of a trie in blocks; all edges of a node are in one block."""

    rows: Block  # [G, …]
    edge_of_node: Int[Array, " M"]  # flat index g * E + e of the edge that ends at each node
    node_parents: Int[Array, " M"]  # -1 for the root
    leaves: Int[Array, " N"]  # leaf of each item
    leaf_levels: Int[Array, " N"]  # number of tokens on the path to the leaf
    # Number of nodes from the root down to each level; static at compile time.
    level_stops: tuple[int, ...] = field(metadata={"static": True})


def make_blocks(trie: Trie, eos: int, size: int) -> Blocks:
    """Cut the trie into blocks of `size` inner nodes, each preceded by the path to its first node.

    Args:
        trie: the identifiers of the catalogue.
        eos: token id of `</s>`, the decoder's start token.
        size: inner nodes per block, without the path.
    """
    level_stops = trie.level_starts[1:]
    order = _inner_preorder(trie, level_stops)
    level = np.repeat(np.arange(len(level_stops)), np.diff([0, *level_stops]))
    inputs = np.where(trie.tokens >= 0, trie.tokens, eos)  # the decoder starts with `</s>`
    n = min(size, len(order)) + trie.depth - 1
    starts = range(0, len(order), size)
    shape = (len(starts), n)
    tokens, members, levels, parents = (np.full(shape, fill, np.int32) for fill in (eos, 0, 0, -1))
    index = np.full(trie.n_nodes, -1)  # of each node in the block it was last in
    edges: list[tuple[np.ndarray, np.ndarray]] = []
    for g, start in enumerate(starts):
        chunk = order[start : start + size]
        path = [int(chunk[0])]
        while path[-1] != 0:
            path.append(int(trie.parents[path[-1]]))
        nodes = np.concatenate([path[:0:-1], chunk]).astype(np.int64)
        index[nodes] = np.arange(len(nodes))
        tokens[g, : len(nodes)] = inputs[nodes]
        members[g, : len(nodes)] = nodes
        levels[g, : len(nodes)] = level[nodes]
        above = trie.parents[nodes]
        parents[g, : len(nodes)] = np.where(above >= 0, index[above], -1)
        counts = trie.n_children[chunk]
        first = np.repeat(trie.first_child[chunk], counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        edges.append((np.repeat(index[chunk], counts), first + within))

    width = max(len(ends) for _, ends in edges)
    edge_starts, edge_ends, edge_tokens = (
        np.zeros((len(starts), width), np.int32) for _ in range(3)
    )
    edge_of_node = np.zeros(trie.n_nodes, np.int32)
    for g, (starting, ends) in enumerate(edges):
        edge_starts[g, : len(starting)] = starting
        edge_ends[g, : len(ends)] = ends
        edge_tokens[g, : len(ends)] = trie.tokens[ends]
        edge_of_node[ends] = g * width + np.arange(len(ends))
    arrays = (tokens, members, levels, parents, edge_starts, edge_ends, edge_tokens)
    by_node = (edge_of_node, trie.parents, trie.leaves, trie.leaf_levels)
    rows = Block(*map(jnp.asarray, arrays))
    return Blocks(rows, *map(jnp.asarray, by_node), level_stops=level_stops)


def score_items(
    states_of: TreeStates, edge_log_probs: EdgeLogProbs, blocks: Blocks
) -> Float[Array, "B N"]:
    """Return the log-probability of every item: the sum over the edges to its leaf, in nats.

    Args:
        states_of: computes the decoder states after the nodes of a block.
        edge_log_probs: computes the log-probabilities of a block's edges from these states.
        blocks: the trie of the catalogue, from `make_blocks`.
    """

    def edges_of(block: Block) -> Float[Array, "B E"]:
        visible = _visible(block.parents, len(blocks.level_stops))
        states = states_of(block.tokens, block.nodes, block.levels, visible)
        edges = (block.edge_starts, block.edge_ends, block.edge_tokens)
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
    """Return the k best items of each user and their scores, best first.

    Args:
        scores: scores of every item.
        k: number of items to return.
        seen: items to exclude for each user, -1 for padding.

    Returns:
        Items [B, k], with -1 after the last one if there are fewer than k, and their scores
        [B, k], with -inf there.
    """
    users, n_items = scores.shape
    if seen is not None:
        column = jnp.where(seen >= 0, seen, n_items)  # out of bounds: dropped
        scores = scores.at[jnp.arange(users)[:, None], column].set(-jnp.inf, mode="drop")
    padded = jnp.pad(scores, ((0, 0), (0, max(0, k - n_items))), constant_values=-jnp.inf)
    best, items = jax.lax.top_k(padded, k)
    return jnp.where(jnp.isfinite(best), items, -1), best


def _visible(parents: Int[Array, " n"], depth: int) -> Array:
    """Return the attention mask [n, n]: each node attends to itself and its ancestors."""
    indices = jnp.arange(len(parents))
    ancestor = indices
    visible = ancestor[:, None] == indices
    for _ in range(depth):
        ancestor = jnp.where(ancestor >= 0, parents[ancestor], -1)
        visible |= ancestor[:, None] == indices
    return visible


def _inner_preorder(trie: Trie, level_stops: tuple[int, ...]) -> Int[np.ndarray, " inner"]:
    """Return the inner nodes in preorder: each node before its subtree, siblings in order."""
    levels = list(zip((0, *level_stops[:-1]), level_stops, strict=True))
    size = (trie.items < 0).astype(np.int64)  # inner nodes of each subtree
    for start, stop in reversed(levels[1:]):
        np.add.at(size, trie.parents[start:stop], size[start:stop])
    number = np.zeros(trie.n_nodes, np.int64)
    before = np.cumsum(size) - size  # of all nodes with a lower number; only differences are used
    for start, stop in levels[1:]:
        parent = trie.parents[start:stop]
        number[start:stop] = (
            number[parent] + 1 + before[start:stop] - before[trie.first_child[parent]]
        )
    inner = np.flatnonzero(trie.items < 0)
    return inner[np.argsort(number[inner])]
