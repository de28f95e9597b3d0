"""The token trie of the items' identifiers as flat arrays.

The path from the root to a leaf consists of an item's tokens and `</s>`, since one identifier may
be a prefix of another (`item_12`, `item_123`). Nodes are numbered level by level, and the children
of a node are consecutive and ordered by token, so a node stores only its first child and the number
of its children.

M is at most N times the longest path, and about 1.1 N for numbers. A node takes 24 bytes and an
item 8, together less than 32 bytes per node.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Trie:
    """The M nodes of a trie over N items; node 0 is the root."""

    tokens: Int[np.ndarray, " M"]  # the token that leads to the node, -1 at the root
    parents: Int[np.ndarray, " M"]  # the parent node, -1 at the root
    first_child: Int[np.ndarray, " M"]  # the child with the smallest token, if any
    n_children: Int[np.ndarray, " M"]  # 0 for a leaf
    items: Int[np.ndarray, " M"]  # the item row of a leaf, -1 for inner nodes
    n_items_below: Int[np.ndarray, " M"]  # number of items in the subtree
    leaves: Int[np.ndarray, " N"]  # the leaf node of each item
    leaf_levels: Int[np.ndarray, " N"]  # number of tokens on each item's path, including `</s>`
    widths: tuple[int, ...]  # maximum number of children of a node, by level
    prefix: tuple[int, ...]  # tokens that all paths start with, never a whole path

    @property
    def depth(self) -> int:
        """The number of tokens on the longest path, including `</s>`."""
        return len(self.widths)

    @property
    def n_nodes(self) -> int:
        """M, the number of nodes."""
        return len(self.tokens)

    @property
    def level_starts(self) -> tuple[int, ...]:
        """The first node of every level, followed by the number of nodes."""
        starts = [0, 1]
        while starts[-1] < self.n_nodes:
            starts.append(starts[-1] + int(self.n_children[starts[-2] : starts[-1]].sum()))
        return tuple(starts)


def build_trie(
    item_tokens: Int[np.ndarray, "N P"], item_lengths: Int[np.ndarray, " N"], eos: int
) -> Trie:
    """Build the trie of N distinct identifiers, with one vectorised pass per level.

    Args:
        item_tokens: the tokens of every item's identifier, padded.
        item_lengths: the number of tokens of every identifier.
        eos: the token id of `</s>`, which ends every path.
    """
    n_items, longest = item_tokens.shape
    depth = int(item_lengths.max()) + 1
    paths = np.full((n_items, max(depth, longest + 1)), -1, dtype=np.int32)
    paths[:, :longest] = np.where(np.arange(longest) < item_lengths[:, None], item_tokens, -1)
    paths[np.arange(n_items), item_lengths] = eos

    tokens, parents, levels = [np.array([-1])], [np.array([-1])], [1]
    node = np.zeros(n_items, dtype=np.int64)  # the node that each path has reached
    below = [np.array([n_items])]
    n_nodes = 1
    for level in range(depth):
        active = np.flatnonzero(item_lengths >= level)
        edges = node[active] << 32 | paths[active, level].astype(np.int64)
        unique, inverse, counts = np.unique(edges, return_inverse=True, return_counts=True)
        node[active] = n_nodes + inverse
        parents.append(unique >> 32)
        tokens.append(unique & 0xFFFFFFFF)
        below.append(counts)
        levels.append(len(unique))
        n_nodes += len(unique)

    parent = np.concatenate(parents)
    n_children = np.bincount(parent[1:], minlength=n_nodes)
    items = np.full(n_nodes, -1)
    items[node] = np.arange(n_items)  # every path has reached its leaf
    token = np.concatenate(tokens)
    starts = np.cumsum([0, *levels[:-1]])
    return Trie(
        tokens=token.astype(np.int32),
        parents=parent.astype(np.int32),
        # Children are numbered in the order of their parents.
        first_child=(1 + np.cumsum(n_children) - n_children).astype(np.int32),
        n_children=n_children.astype(np.int32),
        items=items.astype(np.int32),
        n_items_below=np.concatenate(below).astype(np.int32),
        leaves=node.astype(np.int32),
        leaf_levels=(item_lengths + 1).astype(np.int32),
        widths=tuple(int(n) for n in np.maximum.reduceat(n_children, starts[:-1])),
        prefix=_common_prefix(token, levels),
    )


def decided(trie: Trie) -> Trie:
    """Cut each path after the first node whose subtree contains a single item.

    The tokens after that node are certain: `</s>` for codes, possibly more for other identifiers.
    """
    is_kept = np.concatenate([[True], trie.n_items_below[trie.parents[1:]] > 1])
    is_end = is_kept & (trie.n_items_below == 1)
    number = (np.cumsum(is_kept) - 1).astype(np.int32)
    ends, levels = trie.leaves.copy(), trie.leaf_levels.copy()
    while not is_kept[ends].all():
        levels -= ~is_kept[ends]
        ends = np.where(is_kept[ends], ends, trie.parents[ends])
    items = np.full(trie.n_nodes, -1, np.int32)
    items[ends] = np.arange(len(ends))
    n_children = np.where(is_end, 0, trie.n_children)[is_kept]
    starts = np.searchsorted(np.flatnonzero(is_kept), trie.level_starts[:-1])
    widths = np.maximum.reduceat(n_children, starts[: levels.max()])
    return Trie(
        tokens=trie.tokens[is_kept],
        parents=np.concatenate([[-1], number[trie.parents[is_kept][1:]]]).astype(np.int32),
        first_child=(1 + np.cumsum(n_children) - n_children).astype(np.int32),
        n_children=n_children.astype(np.int32),
        items=items[is_kept],
        n_items_below=trie.n_items_below[is_kept],
        leaves=number[ends],
        leaf_levels=levels,
        widths=tuple(int(width) for width in widths),
        prefix=trie.prefix,
    )


def _common_prefix(tokens: Int[np.ndarray, " M"], levels: list[int]) -> tuple[int, ...]:
    """Return the tokens of the leading levels that have a single node, without the last level.

    No path ends above such a node, so all paths pass through it.
    """
    prefix = []
    for level in range(1, len(levels) - 1):
        if levels[level] > 1:
            break
        prefix.append(int(tokens[level]))
    return tuple(prefix)
