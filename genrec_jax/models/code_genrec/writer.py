"""The hierarchical (trie) softmax as a `Writer`, whose states are the decoder's vectors.

Axes: B users, G targets of a user, Q nodes of a user (target by target), M nodes of the trie,
W children of the widest node of a level, E edges, V tokens, D width.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.models.code_genrec.encoder_prior import SubtreeScores
from genrec_jax.models.code_genrec.trie_head import child_scores
from genrec_jax.models.decoder_writer import DecoderWriter
from genrec_jax.models.device_trie import Children, DeviceTrie


@dataclass(frozen=True)
class TrieWriter(DecoderWriter):
    """The writer over trie nodes, which adds scores to the encoder prior, if any (trie_head.py)."""

    trie: DeviceTrie
    vectors: Float[Array, "M_padded D"]  # the vectors of the trie's nodes
    tokens: Float[Array, "V D"]  # token embeddings
    query: Float[Array, "B G D"] | None  # encoder states at the query positions; None: not used
    prior: SubtreeScores | None  # the encoder prior over items; None: without one

    def embed(self, tokens: Int[Array, "B Q"], nodes: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
        """Return the sum of token embeddings, node vectors and, if used, encoder states."""
        return self._with_query(self.tokens[tokens].astype(self.shape.dtype) + self.vectors[nodes])

    def states(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        return x if self.prior is not None else self._with_query(x)

    def child_log_probs(
        self, states: Float[Array, "B Q D"], nodes: Int[Array, "B Q"], found: Children
    ) -> Float[Array, "B Q W"]:
        return jax.nn.log_softmax(self.scores(states, nodes, found.nodes.shape[-1]), axis=-1)

    def scores(
        self, states: Float[Array, "B Q D"], nodes: Int[Array, "#B Q"], width: int
    ) -> Float[Array, "B Q W"]:
        """Return the logits of the children of nodes, of which each has at most W = `width`."""
        return child_scores(states, nodes, self.trie, self.vectors, width, self.prior)

    def edge_log_probs(
        self,
        states: Float[Array, "B n D"],
        nodes: Int[Array, " n"],
        starts: Int[Array, " E"],
        ends: Int[Array, " E"],
        tokens: Int[Array, " E"],
    ) -> Float[Array, "B E"]:
        scores = self.scores(states, nodes[None], max(self.trie.widths))
        log_probs = jax.nn.log_softmax(scores, axis=-1)
        return log_probs[:, starts, ends - self.trie.first_child[nodes[starts]]]

    def _with_query(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        if self.query is None:
            return x
        return x + jnp.repeat(self.query, x.shape[1] // self.query.shape[1], axis=1)
