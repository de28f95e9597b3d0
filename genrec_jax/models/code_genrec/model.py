"""The generative model over item codes: one encoder position per item, and a trie softmax.

The encoder reads one vector per item (inputs.py). The decoder generates an item as a path in the
trie of the item codes, and scores the children of each node on it (trie_head.py). With an encoder
prior over items, the encoder's state at the query position scores all items, and the decoder's
scores are added to the prior's (encoder_prior.py).

Axes: B users, G targets of a user, T encoder positions, H items of history, S steps of a path,
D width, N items, M nodes.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from genrec_jax.data.batches import Batch
from genrec_jax.layers.blocks import BlockShape
from genrec_jax.layers.decoder import CrossMemory, Decoder
from genrec_jax.layers.dropout import Key, split
from genrec_jax.layers.encoder import Encoder, FilterShape
from genrec_jax.layers.linear import l2_normalise
from genrec_jax.layers.lookup import table_lookup
from genrec_jax.layers.losses import Losses, cross_entropy
from genrec_jax.models.code_genrec.encoder_prior import History, subtree_scores
from genrec_jax.models.code_genrec.inputs import ItemInput, item_input, targets_by_position
from genrec_jax.models.code_genrec.trie_head import inner_vectors, level_scores, node_vectors
from genrec_jax.models.code_genrec.writer import TrieWriter
from genrec_jax.models.contract import (
    GenerativeModel,
    InputKeys,
    Inputs,
    LossTerms,
    ModelShape,
    Objective,
)
from genrec_jax.models.device_trie import DeviceTrie, paths
from genrec_jax.models.masking import drop_users, mask_items
from genrec_jax.models.tables import Tables

EncoderPrior = Literal["none", "state", "copying", "new_items"]


@dataclass(frozen=True)
class CodeGenRecShape(ModelShape):
    """Sizes, rates and switches; config.py explains the switches."""

    vocab_size: int  # tokens of users and codes
    d_model: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    ffn_dim: int
    max_positions: int  # encoder positions
    path_length: int  # steps of the longest path of the trie
    inner_nodes: int  # nodes of the trie that are not leaves
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    user_dropout: float = 0.0
    reversed_positions: bool = False
    encoder_prior: EncoderPrior = "none"
    temperature: float = 0.0
    low_pass: float = 0.0
    frequencies: int = 3

    @property
    def width(self) -> int:
        return self.d_model

    @property
    def blocks(self) -> BlockShape:
        """The shape of the layers of encoder and decoder."""
        rates = (self.dropout, self.attention_dropout, self.activation_dropout)
        sizes = (self.d_model, self.heads, self.ffn_dim)
        return BlockShape(*sizes, *rates, self.init_std, self.dtype)

    def module(self, n_users: int, n_items: int, rngs: nnx.Rngs) -> "CodeGenRec":
        return CodeGenRec(self, n_users, n_items, rngs)


class Memory(NamedTuple):
    """The encoded histories of a batch."""

    cross: CrossMemory  # keys and values for the decoder's cross-attention
    states: Float[Array, "B G D"] | None  # encoder states at the queries; None: encoder_prior=none
    history: History | None  # for encoder_prior copying and new_items, else None


class CodeGenRec(GenerativeModel):
    """Embedding tables, encoder and decoder."""

    def __init__(self, shape: CodeGenRecShape, n_users: int, n_items: int, rngs: nnx.Rngs):
        self.shape = shape
        normal = nnx.initializers.normal(shape.init_std)

        def table(rows: int) -> nnx.Param[jax.Array]:
            return nnx.Param(normal(rngs.params(), (rows, shape.d_model)))

        self.token_embedding = table(shape.vocab_size)
        self.user_embedding = table(n_users)
        self.item_embedding = table(n_items)
        self.node_embedding = table(shape.inner_nodes)
        if shape.encoder_prior == "copying":
            self.pointer = table(shape.d_model)
            self.pointer_recency = nnx.Param(jnp.zeros(shape.max_positions))
        low_pass = FilterShape(shape.low_pass, shape.frequencies) if shape.low_pass else None
        self.encoder = Encoder(
            shape.blocks, shape.encoder_layers, shape.max_positions, rngs, low_pass=low_pass
        )
        self.decoder = Decoder(shape.blocks, shape.decoder_layers, shape.path_length, rngs)

    # ------------------------------------------------------------------ interface (contract.py)

    def make_inputs(
        self,
        tables: Tables,
        batch: Batch,
        objective: Objective,
        length: int,
        keys: InputKeys | None = None,
    ) -> Inputs:
        """Return an `ItemInput`, and as labels the path of trie nodes to each target.

        Steps from a node with one child are certain. They have no loss and weight False, so that
        the mean over predictions ignores them.
        """
        assert tables.identifiers is not None
        assert tables.trie is not None
        items, targets = mask_items(
            objective,
            keys and keys.mask,
            batch.histories,
            batch.targets,
            tables.identifiers.mask_row,
        )
        users = drop_users(keys and keys.users, batch.users, self.shape.user_dropout)
        encoder_input = item_input(tables.identifiers, users, items, length, objective)
        nodes = paths(tables.trie, targets_by_position(targets, length))
        branches = tables.trie.n_children[jnp.maximum(nodes[..., :-1], 0)] > 1
        return Inputs(encoder_input, nodes, branches & (nodes[..., 1:] >= 0))

    def loss(self, tables: Tables, inputs: Inputs, key: Key, rematerialise: bool) -> LossTerms:
        """Return the cross-entropy over the children of a node for each step of the path."""
        assert tables.identifiers is not None
        encoder_key, decoder_key = split(key, 2)
        memory = self._memory(inputs.encoder_input, encoder_key, rematerialise)
        writer = self.writer(tables, memory)
        path: Int[Array, "B G S+1"] = inputs.targets
        users, targets, steps = inputs.weights.shape
        nodes = jnp.maximum(path[..., :-1], 0)  # the node that each step leaves
        tokens = jnp.where(nodes > 0, writer.trie.tokens[nodes], tables.identifiers.eos)
        flat = (users, targets * steps)
        attention_mask = memory.cross.attention_mask
        if attention_mask.shape[1] > 1:
            attention_mask = jnp.repeat(attention_mask, steps, axis=1)
        x, _ = self.decoder(
            writer.embed(tokens.reshape(flat), nodes.reshape(flat)),
            jnp.tile(jnp.arange(steps), targets),
            jnp.tril(jnp.ones((1, steps, steps), dtype=bool)),
            memory.cross._replace(attention_mask=attention_mask),
            decoder_key,
            rematerialise=rematerialise,
            targets=targets,
        )
        x = writer.states(x).reshape(*nodes.shape, -1)  # [B, G, S, D]
        by_step = []
        for step in range(writer.trie.depth):
            scores, first = level_scores(
                x[:, :, step], nodes[:, :, step], writer.trie, writer.vectors, step, writer.prior
            )
            column = path[..., step + 1] - first
            by_step.append(cross_entropy(scores, column, inputs.weights[..., step]))
        losses = Losses(*(jnp.stack(parts, axis=-1) for parts in zip(*by_step, strict=True)))
        return LossTerms(*losses)

    def encode(self, tables: Tables, encoder_input: ItemInput) -> Memory:
        return self._memory(encoder_input)

    def writer(self, tables: Tables, memory: Memory) -> TrieWriter:
        trie = tables.trie
        assert trie is not None
        vectors, prior = self.node_vectors(trie), None
        if memory.history is not None:
            assert memory.states is not None
            query = self.item_query(jnp.squeeze(memory.states, axis=1))  # one target per user
            inner = inner_vectors(trie, self.node_embedding[...]).astype(vectors.dtype)
            prior = subtree_scores(query, memory.history, trie, vectors, inner)
        return TrieWriter(
            self.decoder,
            self.shape.blocks,
            memory.cross,
            trie,
            vectors,
            self.token_embedding[...],
            memory.states,
            prior,
        )

    def cast_names(self) -> tuple[str, ...]:
        # The other tables are summed in float32 before they are cast.
        return ("pointer",) if self.shape.encoder_prior == "copying" else ()

    # ------------------------------------------------------------------ the encoder

    def _memory(
        self, encoder_input: ItemInput, key: Key = None, rematerialise: bool = False
    ) -> Memory:
        positions = None
        if self.shape.reversed_positions:
            positions = jnp.maximum(
                encoder_input.last - jnp.arange(encoder_input.attention_mask.shape[-1]), 0
            )
        encoded = self.encoder(
            self.vectors(encoder_input), encoder_input.attention_mask, key, rematerialise, positions
        )
        attention_mask, states, history = encoder_input.attention_mask, None, None
        if self.shape.encoder_prior != "none":
            states = jnp.take_along_axis(encoded, encoder_input.queries[..., None], axis=1)
        if attention_mask.shape[1] > 1:
            attention_mask = jnp.take_along_axis(
                attention_mask, encoder_input.queries[..., None], axis=1
            )
        if self.shape.encoder_prior == "copying":
            assert states is not None
            history = History(encoder_input.items, self.copy_scores(encoder_input, encoded, states))
        if self.shape.encoder_prior == "new_items":
            history = History(encoder_input.items, None)
        return Memory(CrossMemory(self.decoder.memory(encoded), attention_mask), states, history)

    def vectors(self, encoder_input: ItemInput) -> Float[Array, "B T D"]:
        """Return the encoder's input vectors, without position embeddings."""
        tokens = self.token_embedding[...]
        user = jnp.sum(table_lookup(tokens, encoder_input.user_tokens), axis=1)
        user += table_lookup(self.user_embedding[...], encoder_input.users)
        items = jnp.sum(table_lookup(tokens, encoder_input.item_tokens), axis=2)
        items += table_lookup(self.item_embedding[...], encoder_input.items)
        return jnp.concatenate([user[:, None], items], axis=1).astype(self.shape.dtype)

    def copy_scores(
        self, encoder_input: ItemInput, encoded: Float[Array, "B T D"], query: Float[Array, "B 1 D"]
    ) -> Float[Array, "B H"]:
        """Return the copy score of each position of the history (repeat consumption).

        It is a bilinear product of the encoder's vectors at the query and at the item, plus a bias
        for how recent the item is.

        Args:
            encoder_input: the encoder's input.
            encoded: the encoder's output.
            query: the encoder's state at the query position of each user.
        """
        products = jnp.einsum(
            "bgd,de,bte->bt",
            query,
            self.pointer[...].astype(query.dtype),
            encoded[:, 1:],
            preferred_element_type=jnp.float32,
        )
        # Positions from the item to the last one.
        recency = jnp.maximum(encoder_input.last - 1 - jnp.arange(products.shape[1]), 0)
        return products / self.shape.d_model**0.5 + self.pointer_recency[...][recency]

    # ------------------------------------------------------------------ vectors of nodes

    def node_vectors(self, trie: DeviceTrie) -> Float[Array, "M_padded D"]:
        """Return the vectors of the trie's nodes; that of a leaf is its item's output vector."""
        table = self.item_embedding[...]
        items = l2_normalise(table) if self.shape.temperature else table
        return node_vectors(trie, self.node_embedding[...], items).astype(self.shape.dtype)

    def item_query(self, states: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        """Return the vectors whose products with the items' output vectors are the item scores."""
        if not self.shape.temperature:
            return states
        return (l2_normalise(states) / self.shape.temperature).astype(states.dtype)
