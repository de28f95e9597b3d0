"""A softmax over the children of a trie node, as searches use it. A state is the decoder's vector.

Axes: B users, G targets of a user, Q nodes of a user, those of one target after the other, M nodes,
W children of the widest node of a level, E edges, D width.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.models.code_genrec.node_masses import NodeMasses
from genrec_jax.models.code_genrec.trie_head import child_scores
from genrec_jax.models.decoder_writer import DecoderWriter
from genrec_jax.models.device_trie import Children, DeviceTrie


@dataclass(frozen=True)
class TrieWriter(DecoderWriter):
    """With a residual the decoder writes a correction of what the encoder says (trie_head.py)."""

    trie: DeviceTrie
    vectors: Float[Array, "M_padded D"]
    tokens: Float[Array, "V D"]  # embeddings
    query: Float[Array, "B G D"] | None  # the encoder's vectors at the queries
    masses: NodeMasses | None  # what they say of every node, with a prior over items

    def embed(self, tokens: Int[Array, "B Q"], nodes: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
        """The token's embedding and the node's vector."""
        return self._with_query(self.tokens[tokens].astype(self.shape.dtype) + self.vectors[nodes])

    def states(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        return x if self.masses is not None else self._with_query(x)

    def child_log_probs(
        self, states: Float[Array, "B Q D"], nodes: Int[Array, "B Q"], found: Children
    ) -> Float[Array, "B Q W"]:
        return jax.nn.log_softmax(self.scores(states, nodes, found.nodes.shape[-1]), axis=-1)

    def scores(
        self, states: Float[Array, "B Q D"], nodes: Int[Array, "#B Q"], width: int
    ) -> Float[Array, "B Q W"]:
        """Logits of the children of nodes whose widest has `width`."""
        return child_scores(states, nodes, self.trie, self.vectors, width, self.masses)

    def edge_log_probs(
        self,
        states: Float[Array, "B n D"],
        nodes: Int[Array, " n"],
        slots: Int[Array, " E"],
        ends: Int[Array, " E"],
        tokens: Int[Array, " E"],
    ) -> Float[Array, "B E"]:
        found = jax.nn.log_softmax(self.scores(states, nodes[None], max(self.trie.widths)), axis=-1)
        return found[:, slots, ends - self.trie.first_child[nodes[slots]]]

    def _with_query(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        if self.query is None:
            return x
        return x + jnp.repeat(self.query, x.shape[1] // self.query.shape[1], axis=1)
