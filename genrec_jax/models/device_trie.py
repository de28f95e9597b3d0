"""The trie on the device: the children of nodes, and the paths to items.

A node takes 24 bytes and an item 8 (`identifiers.trie`). The children of nodes are gathered in as
many columns as the widest node of their level has children. W is at most the size of the
vocabulary. In practice it is the number of continuations of one prefix: about 1,000 for BART's
digits, and the size of the alphabet for codes.

Axes: B users, K nodes of a user, M nodes, N items, W children of the widest node of a level.
"""

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from genrec_jax.identifiers.trie import Trie


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeviceTrie:
    """`identifiers.trie.Trie` on the device; its tuples are static (compiled in)."""

    # int32, explained in Trie; shapes instead of arrays while a program is lowered.
    tokens: Any  # [M]
    parents: Any  # [M]
    first_child: Any  # [M]
    n_children: Any  # [M]
    items: Any  # [M]
    n_items_below: Any  # [M]
    leaves: Any  # [N]
    leaf_levels: Any  # [N]
    widths: tuple[int, ...] = field(metadata={"static": True})
    prefix: tuple[int, ...] = field(metadata={"static": True})
    level_starts: tuple[int, ...] = field(metadata={"static": True})

    @property
    def depth(self) -> int:
        """The number of tokens of the longest path."""
        return len(self.widths)


def put_on_device(trie: Trie) -> DeviceTrie:
    """Move a trie to the default device."""
    arrays = {f.name: getattr(trie, f.name) for f in fields(trie) if f.type != tuple[int, ...]}
    on_device = {name: jnp.asarray(array) for name, array in arrays.items()}
    static = {"widths": trie.widths, "prefix": trie.prefix, "level_starts": trie.level_starts}
    return DeviceTrie(**on_device, **static)


class Children(NamedTuple):
    """The children of some nodes, in W columns."""

    nodes: Int[Array, "B K W"]
    tokens: Int[Array, "B K W"]  # the tokens that lead to them
    exist: Bool[Array, "B K W"]  # False where a node has fewer children


def children(trie: DeviceTrie, nodes: Int[Array, "B K"], width: int) -> Children:
    """Gather the children of nodes that have at most W = `width` children each."""
    column = jnp.arange(width)
    child = trie.first_child[nodes][..., None] + column
    exist = column < trie.n_children[nodes][..., None]
    child = jnp.where(exist, child, 0)
    return Children(child, jnp.where(exist, trie.tokens[child], 0), exist)


def paths(trie: DeviceTrie, items: Int[Array, "B G"]) -> Int[Array, "B G path"]:
    """Return the nodes from the root to each item's leaf; -1 after it, and for items of -1."""
    node = jnp.where(items >= 0, trie.leaves[items], -1)
    level = jnp.where(items >= 0, trie.leaf_levels[items], -1)
    by_level = []
    for path_level in range(trie.depth, -1, -1):
        is_here = level == path_level
        by_level.append(jnp.where(is_here, node, -1))
        node = jnp.where(is_here, trie.parents[node], node)
        level = jnp.where(is_here, level - 1, level)
    return jnp.stack(by_level[::-1], axis=-1)
