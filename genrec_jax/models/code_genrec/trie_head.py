"""An output that scores the children of a trie node, in place of the whole vocabulary.

    log p(child | node) = log softmax over the node's children of  h · v(child)

h is the decoder's vector behind the node, v the vector of a node of the trie: the item's row of the
item id table for a leaf; for the others the mean of the items below, so that an item which is
learned draws those that lead to it along, and a row of `node_embedding`. An item's probability is
the product down its path, so that the probabilities of all items add up to 1. What the decoder
reads at a node is its token's embedding and the same vector v.

With `residual=vector` the encoder's vector q at the question is added to that, and to h. With
`residual=items` and `unseen` it is added to what is read alone, and h corrects what q says of the
items:

    log p(child | node) = log softmax over the node's children of  h · v(child) + s(child)

where s(child) is what q says of the sum of the items below (node_masses.py).

Paths end where one item alone is left (`identifiers.trie.decided`): what would follow is certain.

Axes: B users, G questions a user, S steps of the longest path, Q = G * S or K beams, M nodes,
W children of the widest node of a level, D width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.layers.linear import with_rows
from genrec_jax.models.code_genrec.node_masses import NodeMasses, mass_scores, products
from genrec_jax.models.device_trie import DeviceTrie

# A level of so few nodes is scored as a whole, one matrix product, and masked: cheaper than a
# window for each question.
SMALL_LEVEL = 1024


def node_vectors(
    trie: DeviceTrie, inner: Float[Array, "inner D"], items: Float[Array, "N D"]
) -> Float[Array, "M_padded D"]:
    """v of every node in the order of the nodes, and rows of zeros that fill the last window.

    Searches round a window's width up to a power of two. The sums are of float32 whatever comes in:
    in bfloat16 a node with many items below would leave most of them out.
    """
    items, inner = items.astype(jnp.float32), inner.astype(jnp.float32)
    is_leaf = trie.items >= 0
    sums = jnp.where(is_leaf[:, None], items[trie.items], 0.0)
    for level in range(trie.depth, 1, -1):  # not into the root, which all items lie below
        start, stop = trie.level_starts[level : level + 2]
        sums = sums.at[trie.parents[start:stop]].add(sums[start:stop])
    means = sums / trie.n_items_below[:, None]
    vectors = means + own_vectors(trie, inner)
    return jnp.pad(vectors, ((0, 2 * max(trie.widths)), (0, 0)))


def own_vectors(trie: DeviceTrie, inner: Float[Array, "inner D"]) -> Float[Array, "M D"]:
    """What each inner node's vector has beside the items below; 0 for leaves."""
    is_leaf = trie.items >= 0
    return jnp.where(is_leaf[:, None], 0.0, inner[jnp.cumsum(~is_leaf) - 1])


def child_scores(
    states: Float[Array, "B Q D"],
    nodes: Int[Array, "#B Q"],
    trie: DeviceTrie,
    vectors: Float[Array, "M_padded D"],
    width: int,
    masses: NodeMasses | None = None,
) -> Float[Array, "B Q W"]:
    """Logits of the children of `nodes`, of which the widest has W = `width`.

    Where there is no child they are the lowest number and not -inf, so that the gradient of a row
    without children is no NaN. The nodes may be the same for all users: one row.
    """
    # The children of a node stand one behind the other: a window of the vectors, and no row-by-row
    # gather, whose gradient would be a scatter of as many rows.
    window = jax.vmap(jax.vmap(lambda at: jax.lax.dynamic_slice_in_dim(vectors, at, width)))
    found = window(trie.first_child[nodes])  # [#B, Q, W, D]
    scores = products(states, found)
    if masses is not None:
        place = trie.first_child[nodes][..., None] + jnp.arange(width)
        scores += mass_scores(masses, place, found)
    exist = jnp.arange(width) < trie.n_children[nodes][..., None]
    return jnp.where(exist, scores, jnp.finfo(jnp.float32).min)


def level_scores(
    states: Float[Array, "B G D"],
    nodes: Int[Array, "B G"],
    trie: DeviceTrie,
    vectors: Float[Array, "M_padded D"],
    level: int,
    masses: NodeMasses | None = None,
) -> tuple[Float[Array, "B G C"], Int[Array, "#B #G"]]:
    """As `child_scores`, of nodes that all stand at `level`.

    Returns the scores and, for each question, the node that stands in the first of the C columns.
    """
    start, stop = trie.level_starts[level + 1 : level + 3]
    if stop - start > SMALL_LEVEL:
        scores = child_scores(states, nodes, trie, vectors, trie.widths[level], masses)
        return scores, trie.first_child[nodes]
    scores = with_rows(states, vectors[start:stop])
    if masses is not None:
        scores += mass_scores(
            masses, jnp.arange(start, stop)[None, None], vectors[start:stop][None, None]
        )
    is_child = trie.parents[start:stop] == nodes[..., None]
    return jnp.where(is_child, scores, jnp.finfo(jnp.float32).min), jnp.full((1, 1), start)
