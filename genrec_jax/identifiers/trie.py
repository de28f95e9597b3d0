"""The token trie of the catalogue as flat arrays.

A path from the root spells an item's tokens and ends with `</s>`, since one name may begin another
(`item_12`, `item_123`). Nodes are numbered level by level, the children of a node next to each
other and in the order of their tokens, so that a node needs only its first child and their number.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Trie:
    """M nodes, the root first. 16 bytes a node."""

    tokens: Int[np.ndarray, " M"]  # the token that leads to the node
    first_child: Int[np.ndarray, " M"]
    n_children: Int[np.ndarray, " M"]
    items: Int[np.ndarray, " M"]  # the item row whose `</s>` this is, else -1
    depth: int  # tokens of the longest path, `</s>` included
    width: int  # most children of a node


def build_trie(
    item_tokens: Int[np.ndarray, "N P"], item_lengths: Int[np.ndarray, " N"], eos: int
) -> Trie:
    """The trie of N distinct names. Vectorised: one pass over the names a level."""
    n_items, longest = item_tokens.shape
    depth = int(item_lengths.max()) + 1
    paths = np.full((n_items, max(depth, longest + 1)), -1, dtype=np.int32)
    paths[:, :longest] = np.where(np.arange(longest) < item_lengths[:, None], item_tokens, -1)
    paths[np.arange(n_items), item_lengths] = eos

    tokens, parents, items = [np.array([-1])], [np.array([-1])], [np.array([-1])]
    node = np.zeros(n_items, dtype=np.int64)  # where each path has got to
    n_nodes = 1
    for level in range(depth):
        alive = np.flatnonzero(item_lengths >= level)
        edges = np.stack([node[alive], paths[alive, level]], axis=1)
        unique, inverse = np.unique(edges, axis=0, return_inverse=True)
        node[alive] = n_nodes + inverse.reshape(-1)
        ended = alive[item_lengths[alive] == level]
        leaf_items = np.full(len(unique), -1)
        leaf_items[node[ended] - n_nodes] = ended
        parents.append(unique[:, 0])
        tokens.append(unique[:, 1])
        items.append(leaf_items)
        n_nodes += len(unique)

    parent = np.concatenate(parents)[1:]
    n_children = np.bincount(parent, minlength=n_nodes)
    return Trie(
        tokens=np.concatenate(tokens).astype(np.int32),
        # Children are numbered in the order of their parents.
        first_child=(1 + np.cumsum(n_children) - n_children).astype(np.int32),
        n_children=n_children.astype(np.int32),
        items=np.concatenate(items).astype(np.int32),
        depth=depth,
        width=int(n_children.max()),
    )
