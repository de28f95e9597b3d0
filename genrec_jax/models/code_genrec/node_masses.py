"""What the encoder's vector says of the items below each node (`residual=items`, `unseen`).

    s(item)       = log of  exp(q · item) + sum over its places j in the history of exp(pointer j)
    s(inner node) = log of the sum over the items below of exp(s(item))  +  q · own(inner node)

With `unseen` there are no pointers: the items of the history are no answers, and their s is
NOTHING, below that of all others. So is that of a node with nothing else below it.

q is the encoder's vector at the one question of a user: without the nodes' own vectors the softmax
of s over the children, step after step, is one over the whole catalogue with pointers to the
history (a pointer network, Vinyals et al. 2015), whatever the trie and however far the scores are
apart: each sum is relative to the largest number in it. Scoring all items for the sums is the
arithmetic of such a softmax; a leaf's own number is computed again where it is needed, so that the
backward pass need not go through an array of all.

Axes: B users, Q nodes of a user, W children, L nodes of the deepest level, A nodes above it,
M all nodes, D width, H places of the history.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.models.device_trie import DeviceTrie

# The logarithm of nothing. Finite, so that differences and gradients are no NaN, and so low that a
# score added to it is lost in rounding.
NOTHING = -1e30


class History(NamedTuple):
    """What the output knows of the history, whose items it treats in their own way."""

    items: Int[Array, "B H"]  # rows, -1 for none
    # Logits, beside those of the items, of recommending each again. None: none is recommended
    # again.
    pointers: Float[Array, "B H"] | None


class NodeMasses(NamedTuple):
    """s of the nodes above the deepest level, which has leaves alone, and what those need for
    theirs."""

    asked: Float[Array, "B D"]  # q
    above: Float[Array, "A B"]
    leaves: Int[Array, "B H"]  # the nodes of the history's items, M for none
    # Log of the sum of all pointers to the item, at its first place; at the others its node is M.
    # None: without pointers.
    again: Float[Array, "B H"] | None


def node_masses(
    asked: Float[Array, "B D"],
    history: History,
    trie: DeviceTrie,
    vectors: Float[Array, "M_padded D"],
    own: Float[Array, "M D"],
) -> NodeMasses:
    """Sums up the trie; nodes are rows, so that whole rows of users are moved.

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
        trie.items[:first, None] >= 0, _products(vectors[:first], asked), NOTHING
    )
    leaves = jnp.where(history.items >= 0, trie.leaves[history.items], n_nodes)
    again = None
    if history.pointers is None:
        scores = _left_out(scores, leaves - first)
        scores_above = _left_out(scores_above, leaves)
    else:
        leaves, again = _by_item(leaves, history.pointers, n_nodes)
        # Those of deep leaves go to their parents at once.
        parents = trie.parents[jnp.minimum(leaves, n_nodes - 1)]
        place = jnp.where((leaves < first) | (leaves == n_nodes), leaves, parents)
        scores_above = jnp.logaddexp(scores_above, _scattered(first, place, again))
    above = _sums_below(trie, scores_above, scores) + _products(own[:first], asked)
    return NodeMasses(asked, above, leaves, again)


def mass_scores(
    masses: NodeMasses, nodes: Int[Array, "#B Q W"], vectors: Float[Array, "#B Q W D"]
) -> Float[Array, "B Q W"]:
    """s of some nodes with these vectors; anything behind the last node."""
    n_above = len(masses.above)
    states = jnp.broadcast_to(masses.asked[:, None], (len(masses.asked), *vectors.shape[1::2]))
    scores = products(states, vectors)
    is_leaf = nodes[..., None] == masses.leaves[:, None, None]  # [B, Q, W, H]
    is_there = jnp.any(is_leaf, axis=-1)
    if masses.again is None:
        scores = jnp.where(is_there, NOTHING, scores)
    else:
        again = jnp.sum(jnp.where(is_leaf, masses.again[:, None, None], 0.0), axis=-1)
        scores = jnp.where(is_there, jnp.logaddexp(scores, again), scores)
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
    """Log of the sum of what each node above the deepest level has of its own, and of all that is
    below it; what comes in are logarithms too."""
    below, by_level = deepest, []
    for level in range(trie.depth - 1, -1, -1):
        start, middle, stop = trie.level_starts[level : level + 3]
        parents = trie.parents[middle:stop] - start
        below = _log_sums(above[start:middle], below, parents)
        by_level.append(below)
    return jnp.concatenate(by_level[::-1])


def _log_sums(
    own: Float[Array, "n B"], below: Float[Array, "m B"], parents: Int[Array, " m"]
) -> Float[Array, "n B"]:
    """Log of the sum of exp of each row of `own` and of the rows of `below` that it is parent of.

    Relative to the largest of them, whose 1 keeps the sum from being 0.
    """
    largest = jax.lax.stop_gradient(own.at[parents].max(below, indices_are_sorted=True))
    sums = jnp.exp(own - largest)
    sums = sums.at[parents].add(jnp.exp(below - largest[parents]), indices_are_sorted=True)
    return jnp.log(sums) + largest


def _left_out(scores: Float[Array, "n B"], rows: Int[Array, "B H"]) -> Float[Array, "n B"]:
    """NOTHING in these rows of each user; rows that do not exist are none."""
    # A mask, which has no gradient: that of a scatter into the scores would be two more of them.
    rows = jnp.where(rows < 0, len(scores), rows)
    users = jnp.arange(len(rows))[:, None]
    left_out = jnp.zeros(scores.shape, bool).at[rows, users].set(True, mode="drop")
    return jnp.where(left_out, NOTHING, scores)


def _by_item(
    leaves: Int[Array, "B H"], pointers: Float[Array, "B H"], n_nodes: int
) -> tuple[Int[Array, "B H"], Float[Array, "B H"]]:
    """Each item of a history at its first place alone, and the log of the sum of its pointers."""
    same = leaves[:, :, None] == leaves[:, None]
    again = jax.nn.logsumexp(jnp.where(same, pointers[:, None], NOTHING), axis=-1)
    is_first = jnp.argmax(same, axis=-1) == jnp.arange(leaves.shape[1])
    return jnp.where(is_first, leaves, n_nodes), again


def _scattered(
    n: int, place: Int[Array, "B H"], added: Float[Array, "B H"]
) -> Float[Array, "{n} B"]:
    """Log of the sums of exp of `added` by place; places from n on are none."""
    users = jnp.arange(len(place))[:, None]
    nothing = jnp.full((n, len(place)), NOTHING)
    largest = jax.lax.stop_gradient(nothing.at[place, users].max(added, mode="drop"))
    relative = added - largest[jnp.minimum(place, n - 1), users]
    relative = jnp.where(place < n, relative, NOTHING)
    sums = jnp.zeros((n, len(place))).at[place, users].add(jnp.exp(relative), mode="drop")
    return jnp.where(sums > 0, jnp.log(jnp.where(sums > 0, sums, 1.0)) + largest, NOTHING)


def _rows(table: Float[Array, "n B"], rows: Int[Array, "#B Q W"]) -> Float[Array, "B Q W"]:
    """Every user's own column at some rows; whole rows where they are the same for all users."""
    if len(rows) == 1:
        return jnp.moveaxis(table[rows[0]], -1, 0)
    return table[rows, jnp.arange(len(rows))[:, None, None]]
