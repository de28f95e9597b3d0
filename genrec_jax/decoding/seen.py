"""Which item a row of tokens spells, and which nodes of the trie lead only to items already seen.

Axes: B users, K beams, H items of history, S tokens of the longest path, M nodes, N items,
W children of the widest node of a level.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.models.device_trie import DeviceTrie


def find_items(trie: DeviceTrie, tokens: Int[Array, "B K S"]) -> Int[Array, "B K"]:
    """The item that each row of tokens spells, `</s>` included, or -1."""
    node = jnp.zeros(tokens.shape[:2], jnp.int32)
    item = jnp.full(tokens.shape[:2], -1, jnp.int32)
    for position in range(tokens.shape[2]):
        node = _child(trie, node, tokens[:, :, position])
        item = jnp.where(node >= 0, jnp.maximum(item, trie.items[node]), item)
    return item


def _child(
    trie: DeviceTrie, node: Int[Array, "B K"], token: Int[Array, "B K"]
) -> Int[Array, "B K"]:
    """The child of a node by its token, by bisection over the sorted children; -1 for none."""
    low = trie.first_child[node]
    end = low + trie.n_children[node]
    high = end
    for _ in range(max(trie.widths).bit_length()):
        middle = jnp.minimum((low + high) // 2, len(trie.tokens) - 1)
        right = (low < high) & (trie.tokens[middle] < token)
        low, high = jnp.where(right, middle + 1, low), jnp.where(right, high, middle)
    found = (node >= 0) & (low < end) & (trie.tokens[low] == token)
    return jnp.where(found, low, -1)


def seen_nodes(trie: DeviceTrie, seen: Int[Array, "B H"]) -> Int[Array, "B H S"]:
    """The nodes that lead to seen items only, so that a search without them never gets stuck.

    By sorting: memory grows with H, and not with its square.

    Args:
        trie: of N items.
        seen: item rows of each user, -1 for none; an item may stand there more than once.

    Returns:
        At [b, h, s] the node of level s + 1 on the path of the h-th of the user's different items,
        in their own order, if all items below it are seen by user b, else -1.
    """
    items = jnp.sort(seen, axis=1)
    is_again = jnp.pad(items[:, 1:] == items[:, :-1], ((0, 0), (1, 0)))
    items = jnp.where(is_again, -1, items)
    node = jnp.where(items >= 0, trie.leaves[items], -1)
    level = jnp.where(items >= 0, trie.leaf_levels[items], 0)
    by_level = []
    for target in range(trie.depth, 0, -1):
        here = jnp.where(level == target, node, -1)
        below = jax.vmap(_count_equal)(jnp.sort(here, axis=1), here)
        used_up = below == trie.n_items_below[here]
        by_level.append(jnp.where((here >= 0) & used_up, here, -1))
        node = jnp.where(level == target, trie.parents[node], node)
        level = jnp.where(level == target, level - 1, level)
    return jnp.stack(by_level[::-1], axis=2)


def _count_equal(ordered: Int[Array, " H"], numbers: Int[Array, " H"]) -> Int[Array, " H"]:
    """How often each number stands in the ordered ones."""
    first = jnp.searchsorted(ordered, numbers, side="left")
    return jnp.searchsorted(ordered, numbers, side="right") - first


def without_seen(
    trie: DeviceTrie,
    scores: Float[Array, "B K W"],
    nodes: Int[Array, "B K"],
    seen: Int[Array, "B H"],
) -> Float[Array, "B K W"]:
    """The scores of the nodes' children with -inf at those that are among `seen` (-1: none)."""
    is_child = (trie.parents[seen][:, None, :] == nodes[:, :, None]) & (seen >= 0)[:, None, :]
    column = seen[:, None, :] - trie.first_child[nodes][:, :, None]  # [B, K, H]
    column = jnp.where(is_child, column, scores.shape[2])  # out of bounds: dropped
    user = jnp.arange(scores.shape[0])[:, None, None]
    beam = jnp.arange(scores.shape[1])[None, :, None]
    return scores.at[user, beam, column].set(-jnp.inf, mode="drop")
