"""A hierarchical (trie) softmax: a softmax over the children of a trie node at each step.

    log p(child | node) = log softmax over the node's children of  h · v(child)

h is the decoder's vector at the node, and v(child) the vector of a trie node. That of a leaf is the
item's embedding. That of an inner node is a row of `node_embedding` plus the mean of the item
embeddings in its subtree, so that training an item also moves the vectors of the nodes on its path.
The probability of an item is the product along its path, and the probabilities of all items add up
to 1. The decoder's input at a node is the sum of its token's embedding and v.

With `encoder_prior=state` the encoder's state q at the query position is added to the decoder's
inputs and to h. With `copying` and `new_items` q is added to the inputs only, and the decoder
corrects a prior over items:

    log p(child | node) = log softmax over the node's children of  h · v(child) + s(child)

where s(child) is the log-sum-exp of the prior's item scores in the child's subtree
(encoder_prior.py).

Paths end where only one item remains (`identifiers.trie.decided`), since later steps are certain.

Axes: B users, G targets of a user, S steps of the longest path, Q = G * S nodes or K beams,
M nodes of the trie, W children of the widest node of a level, C columns of scores, D width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.layers.linear import row_products
from genrec_jax.models.code_genrec.encoder_prior import SubtreeScores, inner_products, prior_scores
from genrec_jax.models.device_trie import DeviceTrie

# A level with at most this many nodes is scored as a whole, by one matrix product and a mask, which
# is cheaper than a window of node vectors per query.
SMALL_LEVEL = 1024


def node_vectors(
    trie: DeviceTrie, inner: Float[Array, "inner D"], items: Float[Array, "N D"]
) -> Float[Array, "M_padded D"]:
    """Return the vector v of every node, followed by rows of zeros that fill the last window.

    Searches round a window's width up to a power of two. The sums are float32 in any case: in
    bfloat16 the sum of a node with many items would lose most of them to rounding.

    Args:
        trie: the trie.
        inner: the rows of `node_embedding`, one per inner node in the order of the nodes.
        items: the item embeddings.
    """
    items, inner = items.astype(jnp.float32), inner.astype(jnp.float32)
    is_leaf = trie.items >= 0
    sums = jnp.where(is_leaf[:, None], items[trie.items], 0.0)
    for level in range(trie.depth, 1, -1):  # the root's sum is not needed
        start, stop = trie.level_starts[level : level + 2]
        sums = sums.at[trie.parents[start:stop]].add(sums[start:stop])
    means = sums / trie.n_items_below[:, None]
    vectors = means + inner_vectors(trie, inner)
    return jnp.pad(vectors, ((0, 2 * max(trie.widths)), (0, 0)))


def inner_vectors(trie: DeviceTrie, inner: Float[Array, "inner D"]) -> Float[Array, "M D"]:
    """Return the row of `node_embedding` of every inner node, and zeros for leaves."""
    is_leaf = trie.items >= 0
    return jnp.where(is_leaf[:, None], 0.0, inner[jnp.cumsum(~is_leaf) - 1])


def child_scores(
    states: Float[Array, "B Q D"],
    nodes: Int[Array, "#B Q"],
    trie: DeviceTrie,
    vectors: Float[Array, "M_padded D"],
    width: int,
    prior: SubtreeScores | None = None,
) -> Float[Array, "B Q W"]:
    """Return the logits of the children of trie nodes.

    Args:
        states: the decoder's vectors at the nodes.
        nodes: the trie nodes; one row if they are the same for all users.
        trie: the trie.
        vectors: the vectors of the trie's nodes, from `node_vectors`.
        width: W, at least the number of children of every node.
        prior: the encoder prior over items; None: without one.

    Returns:
        The logits. Where a node has fewer children they are the lowest float32 and not -inf, so
        that the gradient of a row without children is not NaN.
    """
    # The children of a node are consecutive, so their vectors are a window. A gather of rows would
    # have a scatter of as many rows as its gradient.
    window = jax.vmap(jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(vectors, start, width)))
    child_vectors = window(trie.first_child[nodes])  # [#B, Q, W, D]
    scores = inner_products(states, child_vectors)
    if prior is not None:
        children = trie.first_child[nodes][..., None] + jnp.arange(width)
        scores += prior_scores(prior, children, child_vectors)
    exist = jnp.arange(width) < trie.n_children[nodes][..., None]
    return jnp.where(exist, scores, jnp.finfo(jnp.float32).min)


def level_scores(
    states: Float[Array, "B G D"],
    nodes: Int[Array, "B G"],
    trie: DeviceTrie,
    vectors: Float[Array, "M_padded D"],
    level: int,
    prior: SubtreeScores | None = None,
) -> tuple[Float[Array, "B G C"], Int[Array, "#B #G"]]:
    """Return the logits of the children of trie nodes of one level.

    Args:
        states: the decoder's vectors at the nodes.
        nodes: the trie nodes, all at `level`.
        trie: the trie.
        vectors: the vectors of the trie's nodes, from `node_vectors`.
        level: the number of steps from the root to the nodes.
        prior: the encoder prior over items; None: without one.

    Returns:
        The logits in C columns, the lowest float32 in columns that are no child, and the trie node
        of the first column.
    """
    start, stop = trie.level_starts[level + 1 : level + 3]
    if stop - start > SMALL_LEVEL:
        scores = child_scores(states, nodes, trie, vectors, trie.widths[level], prior)
        return scores, trie.first_child[nodes]
    scores = row_products(states, vectors[start:stop])
    if prior is not None:
        scores += prior_scores(
            prior, jnp.arange(start, stop)[None, None], vectors[start:stop][None, None]
        )
    is_child = trie.parents[start:stop] == nodes[..., None]
    return jnp.where(is_child, scores, jnp.finfo(jnp.float32).min), jnp.full((1, 1), start)
