"""The encoder prior over items, as scores of trie nodes (`encoder_prior=copying`, `new_items`).

    s(item)       = log(exp(q · v(item)) + sum over its positions j in the history of exp(c_j))
    s(inner node) = log(sum over the items in its subtree of exp(s(item)))  +  q · u(inner node)

q is the encoder's state at a user's one query position, v(item) the item's output vector, c_j the
copy score of position j, and u the inner node's row of `node_embedding`.

With `new_items` there are no copy scores. Items of the history are excluded: their s, and that of a
node with only such items in its subtree, is LOG_ZERO, below the scores of all other nodes.

Without u, a softmax of s over the children at each step is the same as one softmax over the whole
catalogue with copy scores for the history (a pointer network, Vinyals et al. 2015), whatever the
trie. The sums are stable for scores that are far apart, since each is relative to its largest term.
Scoring all items for the sums takes as many operations as the softmax over the catalogue. The score
of a leaf is recomputed where it is needed, so that the backward pass does not go through an array
of all items.

Axes: B users, Q nodes of a user, W children, L nodes of the deepest level, A nodes above it,
M all nodes, D width, H positions of the history.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.models.device_trie import DeviceTrie

# In place of log(0). It is finite, so that differences and gradients are not NaN, and so low that a
# score added to it is lost to rounding.
LOG_ZERO = -1e30


class History(NamedTuple):
    """The items of the histories, which the prior copies or excludes."""

    items: Int[Array, "B H"]  # item rows, -1 for none
    copy_scores: Float[Array, "B H"] | None  # logits of the positions; None: exclude the items


class SubtreeScores(NamedTuple):
    """The scores s of the nodes above the deepest level, and what the scores of leaves depend on.

    All nodes of the deepest level are leaves.
    """

    query: Float[Array, "B D"]  # q
    above: Float[Array, "A B"]  # s of the nodes above the deepest level
    leaves: Int[Array, "B H"]  # the leaf of each item of the history, M for none
    # The log-sum-exp of an item's copy scores, at its first position in the history; at its other
    # positions `leaves` is M. None: the items are excluded.
    copy_scores: Float[Array, "B H"] | None


def subtree_scores(
    query: Float[Array, "B D"],
    history: History,
    trie: DeviceTrie,
    vectors: Float[Array, "M_padded D"],
    inner_vectors: Float[Array, "M D"],
) -> SubtreeScores:
    """Compute the encoder prior: the log-sum-exp of the item scores in the subtree of each node.

    Nodes are the first axis, so that the steps up the trie move whole rows of users.

    Args:
        query: q, the encoder's state at each user's query position.
        history: the items of the histories, with copy scores or to be excluded.
        trie: the catalogue's trie.
        vectors: the vectors of the trie's nodes, of which only those of leaves are used.
        inner_vectors: u, the `node_embedding` of the inner nodes; zeros for leaves.
    """
    n_nodes = len(trie.items)
    first = trie.level_starts[trie.depth]  # the first node of the deepest level
    scores = _products(vectors[first:n_nodes], query)
    scores_above = jnp.where(
        trie.items[:first, None] >= 0, _products(vectors[:first], query), LOG_ZERO
    )
    leaves = jnp.where(history.items >= 0, trie.leaves[history.items], n_nodes)
    copy_scores = None
    if history.copy_scores is None:
        scores = _exclude(scores, leaves - first)
        scores_above = _exclude(scores_above, leaves)
    else:
        leaves, copy_scores = _merge_repeats(leaves, history.copy_scores, n_nodes)
        # Copy scores of leaves on the deepest level are added directly to their parents.
        parents = trie.parents[jnp.minimum(leaves, n_nodes - 1)]
        nodes = jnp.where((leaves < first) | (leaves == n_nodes), leaves, parents)
        scores_above = jnp.logaddexp(scores_above, _scatter_logsumexp(first, nodes, copy_scores))
    above = _logsumexp_subtrees(trie, scores_above, scores)
    above += _products(inner_vectors[:first], query)
    return SubtreeScores(query, above, leaves, copy_scores)


def prior_scores(
    prior: SubtreeScores, nodes: Int[Array, "#B Q W"], vectors: Float[Array, "#B Q W D"]
) -> Float[Array, "B Q W"]:
    """Return the scores s of trie nodes.

    Args:
        prior: the encoder prior, from `subtree_scores`.
        nodes: the trie nodes; values for nodes ≥ M are arbitrary.
        vectors: the vectors of the nodes.
    """
    n_above = len(prior.above)
    states = jnp.broadcast_to(prior.query[:, None], (len(prior.query), *vectors.shape[1::2]))
    scores = inner_products(states, vectors)
    is_leaf = nodes[..., None] == prior.leaves[:, None, None]  # [B, Q, W, H]
    in_history = jnp.any(is_leaf, axis=-1)
    if prior.copy_scores is None:
        scores = jnp.where(in_history, LOG_ZERO, scores)
    else:
        copy_scores = jnp.sum(jnp.where(is_leaf, prior.copy_scores[:, None, None], 0.0), axis=-1)
        scores = jnp.where(in_history, jnp.logaddexp(scores, copy_scores), scores)
    is_deepest = nodes >= n_above
    return jnp.where(is_deepest, scores, _rows(prior.above, jnp.where(is_deepest, 0, nodes)))


def inner_products(
    states: Float[Array, "B Q D"], vectors: Float[Array, "#B Q W D"]
) -> Float[Array, "B Q W"]:
    """Return the products of each state with its W vectors, which all users may share."""
    if len(vectors) == 1:
        return jnp.einsum("bqd,qwd->bqw", states, vectors[0], preferred_element_type=jnp.float32)
    return jnp.einsum("bqd,bqwd->bqw", states, vectors, preferred_element_type=jnp.float32)


def _products(vectors: Float[Array, "n D"], query: Float[Array, "B D"]) -> Float[Array, "n B"]:
    return jnp.einsum("nd,bd->nb", vectors, query, preferred_element_type=jnp.float32)


def _logsumexp_subtrees(
    trie: DeviceTrie, above: Float[Array, "A B"], deepest: Float[Array, "L B"]
) -> Float[Array, "A B"]:
    """Return the log-sum-exp of node scores in each subtree.

    Args:
        trie: the catalogue's trie.
        above: the scores of the nodes above the deepest level, without their subtrees.
        deepest: the scores of the nodes of the deepest level.
    """
    below, by_level = deepest, []
    for level in range(trie.depth - 1, -1, -1):
        start, middle, stop = trie.level_starts[level : level + 3]
        parents = trie.parents[middle:stop] - start
        below = _logsumexp_children(above[start:middle], below, parents)
        by_level.append(below)
    return jnp.concatenate(by_level[::-1])


def _logsumexp_children(
    node_scores: Float[Array, "n B"], child_scores: Float[Array, "m B"], parents: Int[Array, " m"]
) -> Float[Array, "n B"]:
    """Return the log-sum-exp of each node's own score and the scores of its children.

    Each sum is relative to its largest term, so it is at least 1.
    """
    largest = node_scores.at[parents].max(child_scores, indices_are_sorted=True)
    largest = jax.lax.stop_gradient(largest)
    terms = jnp.exp(child_scores - largest[parents])
    sums = jnp.exp(node_scores - largest).at[parents].add(terms, indices_are_sorted=True)
    return jnp.log(sums) + largest


def _exclude(scores: Float[Array, "n B"], rows: Int[Array, "B H"]) -> Float[Array, "n B"]:
    """Set these rows of each user's column to LOG_ZERO; ignore rows outside the array."""
    # A mask has no gradient. A scatter into the scores would add two scatters to the backward pass.
    rows = jnp.where(rows < 0, len(scores), rows)
    users = jnp.arange(len(rows))[:, None]
    excluded = jnp.zeros(scores.shape, bool).at[rows, users].set(True, mode="drop")
    return jnp.where(excluded, LOG_ZERO, scores)


def _merge_repeats(
    leaves: Int[Array, "B H"], copy_scores: Float[Array, "B H"], n_nodes: int
) -> tuple[Int[Array, "B H"], Float[Array, "B H"]]:
    """Keep each leaf at its first position only, with the log-sum-exp of its copy scores."""
    same = leaves[:, :, None] == leaves[:, None]
    merged = jax.nn.logsumexp(jnp.where(same, copy_scores[:, None], LOG_ZERO), axis=-1)
    is_process_0 = jnp.argmax(same, axis=-1) == jnp.arange(leaves.shape[1])
    return jnp.where(is_process_0, leaves, n_nodes), merged


def _scatter_logsumexp(
    n: int, nodes: Int[Array, "B H"], scores: Float[Array, "B H"]
) -> Float[Array, "{n} B"]:
    """Return the log-sum-exp of the scores by node, for nodes 0 … n - 1; ignore other nodes."""
    users = jnp.arange(len(nodes))[:, None]
    empty = jnp.full((n, len(nodes)), LOG_ZERO)
    largest = jax.lax.stop_gradient(empty.at[nodes, users].max(scores, mode="drop"))
    relative = scores - largest[jnp.minimum(nodes, n - 1), users]
    relative = jnp.where(nodes < n, relative, LOG_ZERO)
    sums = jnp.zeros((n, len(nodes))).at[nodes, users].add(jnp.exp(relative), mode="drop")
    return jnp.where(sums > 0, jnp.log(jnp.where(sums > 0, sums, 1.0)) + largest, LOG_ZERO)


def _rows(table: Float[Array, "n B"], rows: Int[Array, "#B Q W"]) -> Float[Array, "B Q W"]:
    """Return each user's column of a table at some rows, which all users may share."""
    if len(rows) == 1:
        return jnp.moveaxis(table[rows[0]], -1, 0)
    return table[rows, jnp.arange(len(rows))[:, None, None]]
