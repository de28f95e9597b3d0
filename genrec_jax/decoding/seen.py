"""The item that a token sequence identifies, and the trie nodes that lead only to seen items.

Axes: B users, K beams, H items of history, S tokens of the longest path, M nodes, N items,
W children of the widest node of a level.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.models.device_trie import DeviceTrie


def find_items(trie: DeviceTrie, tokens: Int[Array, "B K S"]) -> Int[Array, "B K"]:
    """Return the item whose identifier each token sequence is, `</s>` included; -1 for none."""
    node = jnp.zeros(tokens.shape[:2], jnp.int32)
    item = jnp.full(tokens.shape[:2], -1, jnp.int32)
    for position in range(tokens.shape[2]):
        node = _child(trie, node, tokens[:, :, position])
        item = jnp.where(node >= 0, jnp.maximum(item, trie.items[node]), item)
    return item


def _child(
    trie: DeviceTrie, node: Int[Array, "B K"], token: Int[Array, "B K"]
) -> Int[Array, "B K"]:
    """Return the child of a node by its token, by bisection over the sorted children; -1: none."""
    low = trie.first_child[node]
    end = low + trie.n_children[node]
    high = end
    for _ in range(max(trie.widths).bit_length()):
        middle = jnp.minimum((low + high) // 2, len(trie.tokens) - 1)
        right = (low < high) & (trie.tokens[middle] < token)
        low, high = jnp.where(right, middle + 1, low), jnp.where(right, high, middle)
    exists = (node >= 0) & (low < end) & (trie.tokens[low] == token)
    return jnp.where(exists, low, -1)


def excluded_nodes(trie: DeviceTrie, seen: Int[Array, "B H"]) -> Int[Array, "B H S"]:
    """Return the trie nodes below which every item is seen, so that a search can skip them.

    A search that skips them never reaches a node without continuations. The nodes are found by
    sorting, so memory grows linearly with H.

    Args:
        trie: the identifiers of N items.
        seen: seen items of each user, -1 for padding; an item may occur several times.

    Returns:
        At [b, h, s], the node at level s + 1 on the path of the h-th distinct item of user b, in
        ascending order of items, if user b has seen all items below that node; otherwise -1.
    """
    items = jnp.sort(seen, axis=1)
    is_repeated = jnp.pad(items[:, 1:] == items[:, :-1], ((0, 0), (1, 0)))
    items = jnp.where(is_repeated, -1, items)
    node = jnp.where(items >= 0, trie.leaves[items], -1)
    level = jnp.where(items >= 0, trie.leaf_levels[items], 0)
    by_level = []
    for target in range(trie.depth, 0, -1):
        at_level = jnp.where(level == target, node, -1)
        n_seen = jax.vmap(_count_equal)(jnp.sort(at_level, axis=1), at_level)
        all_seen = n_seen == trie.n_items_below[at_level]
        by_level.append(jnp.where((at_level >= 0) & all_seen, at_level, -1))
        node = jnp.where(level == target, trie.parents[node], node)
        level = jnp.where(level == target, level - 1, level)
    return jnp.stack(by_level[::-1], axis=2)


def _count_equal(ordered: Int[Array, " H"], numbers: Int[Array, " H"]) -> Int[Array, " H"]:
    """Count how often each number occurs in the sorted array `ordered`."""
    first = jnp.searchsorted(ordered, numbers, side="left")
    return jnp.searchsorted(ordered, numbers, side="right") - first


def mask_children(
    trie: DeviceTrie,
    scores: Float[Array, "B K W"],
    nodes: Int[Array, "B K"],
    excluded: Int[Array, "B H"],
) -> Float[Array, "B K W"]:
    """Set the scores of excluded children to -inf.

    Args:
        trie: the identifiers of the catalogue.
        scores: scores of the children of `nodes`.
        nodes: trie nodes of the hypotheses.
        excluded: nodes to exclude for each user, -1 for padding.
    """
    is_child = trie.parents[excluded][:, None, :] == nodes[:, :, None]
    is_child &= (excluded >= 0)[:, None, :]
    column = excluded[:, None, :] - trie.first_child[nodes][:, :, None]  # [B, K, H]
    column = jnp.where(is_child, column, scores.shape[2])  # out of bounds: dropped
    user = jnp.arange(scores.shape[0])[:, None, None]
    beam = jnp.arange(scores.shape[1])[None, :, None]
    return scores.at[user, beam, column].set(-jnp.inf, mode="drop")
