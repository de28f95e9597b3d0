"""The outputs of a model, as searches and training ask them: tokens, nodes of the trie, or items.

The first two write a name from the root of the trie, one node a step, and say how probable the
children of a node are. The vocabulary head knows the tokens that lead there, the trie head the
nodes themselves. The item head writes nothing: it says how probable the items are.

Axes: B users, Q nodes of a user, M nodes of the trie, W children of the widest node of a level,
E edges, V vocabulary, D width, G questions, N items.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genrec_jax.models.bart import Memory
from genrec_jax.models.device_trie import Children, DeviceTrie
from genrec_jax.models.genrec import GenRec
from genrec_jax.models.node_masses import NodeMasses, node_masses
from genrec_jax.models.trie_head import child_scores, own_vectors


class VocabularyHead(NamedTuple):
    """The paper's: a softmax over all tokens. A state is the logits."""

    model: GenRec

    def embed(self, tokens: Int[Array, "B Q"], nodes: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
        """What the decoder reads at some nodes, which these tokens lead to."""
        return self.model.embed(tokens)

    def states(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q V"]:
        return self.model.logits(x)

    @staticmethod
    def log_probs(
        states: Float[Array, "B Q V"], nodes: Int[Array, "B Q"], found: Children
    ) -> Float[Array, "B Q W"]:
        """Of the children of `nodes` under the full softmax; anything where there is no child."""
        chosen = jnp.take_along_axis(states, found.tokens, axis=2)
        return chosen - jax.nn.logsumexp(states, axis=2, keepdims=True)

    @staticmethod
    def edge_log_probs(
        states: Float[Array, "B n V"],
        nodes: Int[Array, " n"],
        slots: Int[Array, " E"],
        ends: Int[Array, " E"],
        tokens: Int[Array, " E"],
    ) -> Float[Array, "B E"]:
        """Of the edges from node number slots[e] of `nodes` to the node ends[e]."""
        return states[:, slots, tokens] - jax.nn.logsumexp(states, axis=2)[:, slots]


class TrieHead(NamedTuple):
    """A softmax over the children of a node. A state is the decoder's vector.

    With a residual the decoder writes a correction of what the encoder says (trie_head.py). The Q
    nodes of a user are those of G questions, one after the other.
    """

    model: GenRec
    trie: DeviceTrie
    vectors: Float[Array, "M_padded D"]
    asked: Float[Array, "B G D"] | None  # the encoder's vectors at the questions
    masses: NodeMasses | None  # what they say of every node, with residual=items or unseen

    def embed(self, tokens: Int[Array, "B Q"], nodes: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
        """The token's embedding and the node's vector."""
        return self._with_asked(self.model.embed(tokens) + self.vectors[nodes])

    def states(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        return x if self.masses is not None else self._with_asked(x)

    def log_probs(
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

    def _with_asked(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        if self.asked is None:
            return x
        return x + jnp.repeat(self.asked, x.shape[1] // self.asked.shape[1], axis=1)


class ItemHead(NamedTuple):
    """A softmax over all items, of what the encoder says at a question."""

    model: GenRec
    asked: Float[Array, "B G D"]

    def log_probs(self) -> Float[Array, "B G N"]:
        return jax.nn.log_softmax(self.model.item_logits(self.asked), axis=-1)


Head = VocabularyHead | TrieHead | ItemHead


def head_of(model: GenRec, trie: DeviceTrie | None, memory: Memory) -> Head:
    """The model's, to answer the questions of `memory`.

    The trie is that of `identifiers.trie.decided`, where the model has nodes.
    """
    if model.shape.head == "vocabulary":
        return VocabularyHead(model)
    if model.shape.head == "item":
        assert memory.states is not None
        return ItemHead(model, memory.states)
    assert trie is not None
    vectors, masses = model.node_vectors(trie), None
    if memory.history is not None:
        assert memory.states is not None
        asked = model.item_question(jnp.squeeze(memory.states, axis=1))  # one question a user
        own = own_vectors(trie, model.node_embedding[...]).astype(vectors.dtype)
        masses = node_masses(asked, memory.history, trie, vectors, own)
    return TrieHead(model, trie, vectors, memory.states, masses)
