"""The Writer of the genrec family: a softmax over the vocabulary. Its states are logits.

Axes: B users, Q nodes of a user, W children of the widest node of a level, E edges, V vocabulary,
D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.models.decoder_writer import DecoderWriter
from genrec_jax.models.device_trie import Children


def child_log_probs(
    logits: Float[Array, "B Q V"], nodes: Int[Array, "B Q"], found: Children
) -> Float[Array, "B Q W"]:
    """Return the log-probabilities of the children of trie nodes.

    The softmax is over the whole vocabulary, so that tokens outside the trie have probability, too.

    Args:
        logits: the logits at each node.
        nodes: the trie nodes, which are not needed.
        found: the children of each node.
    """
    child_logits = jnp.take_along_axis(logits, found.tokens, axis=2)
    return child_logits - jax.nn.logsumexp(logits, axis=2, keepdims=True)


@dataclass(frozen=True)
class VocabularyWriter(DecoderWriter):
    """Generate an item's tokens and `</s>`, each with a softmax over the whole vocabulary."""

    embed_tokens: Callable[[jax.Array], jax.Array]  # GenRec.embed
    logits: Callable[[jax.Array], jax.Array]  # GenRec.logits

    def embed(self, tokens: Int[Array, "B Q"], nodes: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
        return self.embed_tokens(tokens)

    def states(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q V"]:
        return self.logits(x)

    def child_log_probs(
        self, states: Float[Array, "B Q V"], nodes: Int[Array, "B Q"], found: Children
    ) -> Float[Array, "B Q W"]:
        return child_log_probs(states, nodes, found)

    def edge_log_probs(
        self,
        states: Float[Array, "B n V"],
        nodes: Int[Array, " n"],
        starts: Int[Array, " E"],
        ends: Int[Array, " E"],
        tokens: Int[Array, " E"],
    ) -> Float[Array, "B E"]:
        return states[:, starts, tokens] - jax.nn.logsumexp(states, axis=2)[:, starts]
