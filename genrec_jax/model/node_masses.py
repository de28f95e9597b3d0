"""What the encoder's vector says of the items below each node (`residual=items`, `unseen`).

    s(item)       = log m(item)
    s(inner node) = log m(inner node) + q · own(inner node)
    m(item)       = exp(q · item) + sum over its places j in the history of exp(pointer j)
    m(inner node) = sum over the items below of m(item)

With `unseen` there are no pointers: m is 0 for the items of the history, which are no answers.

q is the encoder's vector at the one question of a user: without the nodes' own vectors the softmax
of s over the children, step after step, is one over the whole catalogue with pointers to the
history (a pointer network, Vinyals et al. 2015), whatever the trie. Scoring all items for the sums
is the arithmetic of such a softmax; a leaf's own number is made again where it is asked for, so
that the backward pass need not go through an array of all.

Axes: B users, Q nodes of a user, W children, L nodes of the deepest level, A nodes above it,
M all nodes, D width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.model.bart import History
from genrec_jax.model.device_trie import DeviceTrie


class NodeMasses(NamedTuple):
    """s up to a number for each user: of the nodes above the deepest level, which has leaves
    alone, and what those need for theirs."""

    asked: Float[Array, "B D"]  # q
    largest: Float[Array, " B"]  # the number
    above: Float[Array, "A B"]
    leaves: Int[Array, "B H"]  # the nodes of the history's items, M for none
    # What a place of the history adds to its leaf's m. None: the leaf's m is 0.
    again: Float[Array, "B H"] | None


def node_masses(
    asked: Float[Array, "B D"],
    history: History,
    trie: DeviceTrie,
    vectors: Float[Array, "M_padded D"],
    own: Float[Array, "M D"],
) -> NodeMasses:
    """Nodes are rows, so that the sums up the trie move whole rows of users.

    Args:
        asked: q.
        history: with pointers, or of items that are no answers.
        trie: of the catalogue.
        vectors: the items' at the leaves; of the others nothing is used.
        own: the inner nodes' own, 0 for leaves.
    """
    n_nodes = len(trie.items)
    first = trie.level_starts[trie.depth]  # of the deepest level
    scores = _products(vectors[first:n_nodes], asked)
    scores_above = jnp.where(
        trie.items[:first, None] >= 0, _products(vectors[:first], asked), -jnp.inf
    )
    there = history.items >= 0
    leaves = jnp.where(there, trie.leaves[history.items], n_nodes)
    if history.pointers is None:
        scores = _left_out(scores, leaves - first)
        scores_above = _left_out(scores_above, leaves)
    # Any number does; finite for a user who has seen all items.
    largest = jnp.maximum(jnp.max(scores, axis=0), jnp.max(scores_above, axis=0))
    if history.pointers is not None:
        largest = jnp.maximum(
            largest, jnp.max(history.pointers, axis=1, initial=-jnp.inf, where=there)
        )
    largest = jax.lax.stop_gradient(jnp.maximum(largest, jnp.finfo(jnp.float32).min))

    again, masses = None, jnp.exp(scores_above - largest)
    if history.pointers is not None:
        again = jnp.where(there, jnp.exp(history.pointers - largest[:, None]), 0.0)
        masses += _scattered(first, leaves, again)
        # Those of deep leaves go to their parents at once.
        parents = jnp.where(leaves < first, first, trie.parents[leaves])
        masses += _scattered(first, parents, again)
    sums = _sums_below(trie, masses, jnp.exp(scores - largest))
    return NodeMasses(asked, largest, _log(sums) + _products(own[:first], asked), leaves, again)


def mass_scores(
    masses: NodeMasses, nodes: Int[Array, "#B Q W"], vectors: Float[Array, "#B Q W D"]
) -> Float[Array, "B Q W"]:
    """s of some nodes with these vectors; anything behind the last node."""
    n_above = len(masses.above)
    states = jnp.broadcast_to(masses.asked[:, None], (len(masses.asked), *vectors.shape[1::2]))
    scores = products(states, vectors) - masses.largest[:, None, None]
    is_leaf = nodes[..., None] == masses.leaves[:, None, None]  # [B, Q, W, H]
    if masses.again is None:
        scores = jnp.where(jnp.any(is_leaf, axis=-1), _log(jnp.zeros(())), scores)
    else:
        again = jnp.sum(jnp.where(is_leaf, masses.again[:, None, None], 0.0), axis=-1)
        scores = jnp.logaddexp(scores, _log(again))
    deep = nodes >= n_above
    return jnp.where(deep, scores, _rows(masses.above, jnp.where(deep, 0, nodes)))


def products(
    states: Float[Array, "B Q D"], vectors: Float[Array, "#B Q W D"]
) -> Float[Array, "B Q W"]:
    """Of every state with its vectors, which may be the same for all users."""
    if len(vectors) == 1:
        return jnp.einsum("bqd,qwd->bqw", states, vectors[0], preferred_element_type=jnp.float32)
    return jnp.einsum("bqd,bqwd->bqw", states, vectors, preferred_element_type=jnp.float32)


def _products(vectors: Float[Array, "n D"], asked: Float[Array, "B D"]) -> Float[Array, "n B"]:
    return jnp.einsum("nd,bd->nb", vectors, asked, preferred_element_type=jnp.float32)


def _sums_below(
    trie: DeviceTrie, above: Float[Array, "A B"], deepest: Float[Array, "L B"]
) -> Float[Array, "A B"]:
    """What each node above the deepest level has of its own, and all that is below it."""
    below, by_level = deepest, []
    for level in range(trie.depth - 1, -1, -1):
        start, middle, stop = trie.level_starts[level : level + 3]
        sums = jnp.zeros((middle - start, below.shape[1])).at[trie.parents[middle:stop] - start]
        below = above[start:middle] + sums.add(below, indices_are_sorted=True)
        by_level.append(below)
    return jnp.concatenate(by_level[::-1])


def _left_out(scores: Float[Array, "n B"], rows: Int[Array, "B H"]) -> Float[Array, "n B"]:
    """-inf in these rows of each user; rows that do not exist are none."""
    # A mask, which has no gradient: that of a scatter into the scores would be two more of them.
    rows = jnp.where(rows < 0, len(scores), rows)
    users = jnp.arange(len(rows))[:, None]
    left_out = jnp.zeros(scores.shape, bool).at[rows, users].set(True, mode="drop")
    return jnp.where(left_out, -jnp.inf, scores)


def _scattered(
    n: int, place: Int[Array, "B H"], added: Float[Array, "B H"]
) -> Float[Array, "{n} B"]:
    """Sums of `added` by place, from n on left out."""
    users = jnp.arange(len(place))[:, None]
    return jnp.zeros((n, len(place))).at[place, users].add(added, mode="drop")


def _rows(table: Float[Array, "n B"], rows: Int[Array, "#B Q W"]) -> Float[Array, "B Q W"]:
    """Every user's own column at some rows; whole rows where they are the same for all users."""
    if len(rows) == 1:
        return jnp.moveaxis(table[rows[0]], -1, 0)
    return table[rows, jnp.arange(len(rows))[:, None, None]]


def _log(masses: Array) -> Array:
    """Where there is nothing, 87 nats below the best, without a gradient."""
    return jnp.log(jnp.maximum(masses, jnp.finfo(jnp.float32).tiny))
