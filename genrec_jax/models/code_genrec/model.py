"""The generative model over item codes: one vector an item in, a softmax over trie nodes out.

The encoder reads one vector an item (inputs.py). The decoder writes an item as a path down the trie
of its code, and scores the children of each node (trie_head.py). With a prior over items it
corrects what the encoder's vector at the query says of every item (node_masses.py).

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
from genrec_jax.layers.linear import of_length_1
from genrec_jax.layers.lookup import table_lookup
from genrec_jax.layers.losses import Losses, cross_entropy
from genrec_jax.models.code_genrec.inputs import ItemInput, item_input, targets_by_position
from genrec_jax.models.code_genrec.node_masses import History, node_masses
from genrec_jax.models.code_genrec.trie_head import level_scores, node_vectors, own_vectors
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
    """Sizes, rates and switches; config.py says what the switches mean."""

    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    ffn_dim: int
    max_positions: int
    path_length: int  # steps of the longest path of the trie
    inner_nodes: int  # nodes of the trie that are no items
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
        """The shape of the layers of either stack."""
        rates = (self.dropout, self.attention_dropout, self.activation_dropout)
        sizes = (self.d_model, self.heads, self.ffn_dim)
        return BlockShape(*sizes, *rates, self.init_std, self.dtype)

    def module(self, n_users: int, n_items: int, rngs: nnx.Rngs) -> "CodeGenRec":
        return CodeGenRec(self, n_users, n_items, rngs)


class Memory(NamedTuple):
    """What the encoder has read."""

    cross: CrossMemory
    states: Float[Array, "B G D"] | None  # the encoder's at the queries, with a prior
    history: History | None  # with encoder_prior copying or new_items


class CodeGenRec(GenerativeModel):
    """Embedding tables, encoder, decoder, and the vectors of trie nodes."""

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

    # ------------------------------------------------------------------ the contract

    def make_inputs(
        self,
        tables: Tables,
        batch: Batch,
        objective: Objective,
        length: int,
        keys: InputKeys | None = None,
    ) -> Inputs:
        """Integers → `ItemInput` and the path to each target, which counts where it branches.

        A step from a node with one child is certain: it has no loss, and must not count where the
        loss is divided.
        """
        assert tables.names is not None
        assert tables.trie is not None
        items, targets = mask_items(
            objective, keys and keys.mask, batch.histories, batch.targets, tables.names.mask_row
        )
        users = drop_users(keys and keys.users, batch.users, self.shape.user_dropout)
        read = item_input(tables.names, users, items, length, objective)
        nodes = paths(tables.trie, targets_by_position(targets, length))
        branches = tables.trie.n_children[jnp.maximum(nodes[..., :-1], 0)] > 1
        return Inputs(read, nodes, branches & (nodes[..., 1:] >= 0))

    def loss(self, tables: Tables, inputs: Inputs, key: Key, rematerialise: bool) -> LossTerms:
        """Cross-entropy over the children of a node, for every step of a target's path."""
        assert tables.names is not None
        encoder_key, decoder_key = split(key, 2)
        memory = self._read(inputs.read, encoder_key, rematerialise)
        writer = self.writer(tables, memory)
        path: Int[Array, "B G S+1"] = inputs.answer
        users, targets, steps = inputs.weights.shape
        nodes = jnp.maximum(path[..., :-1], 0)  # what each step leaves from
        tokens = jnp.where(nodes > 0, writer.trie.tokens[nodes], tables.names.eos)
        flat = (users, targets * steps)
        look = memory.cross.look
        if look.shape[1] > 1:
            look = jnp.repeat(look, steps, axis=1)
        x, _ = self.decoder(
            writer.embed(tokens.reshape(flat), nodes.reshape(flat)),
            jnp.tile(jnp.arange(steps), targets),
            jnp.tril(jnp.ones((1, steps, steps), dtype=bool)),
            memory.cross._replace(look=look),
            decoder_key,
            rematerialise=rematerialise,
            names=targets,
        )
        x = writer.states(x).reshape(*nodes.shape, -1)  # [B, G, S, D]
        by_step = []
        for step in range(writer.trie.depth):
            scores, first = level_scores(
                x[:, :, step], nodes[:, :, step], writer.trie, writer.vectors, step, writer.masses
            )
            column = path[..., step + 1] - first
            by_step.append(cross_entropy(scores, column, inputs.weights[..., step]))
        losses = Losses(*(jnp.stack(parts, axis=-1) for parts in zip(*by_step, strict=True)))
        return LossTerms(*losses)

    def encode(self, tables: Tables, read: ItemInput) -> Memory:
        return self._read(read)

    def writer(self, tables: Tables, memory: Memory) -> TrieWriter:
        trie = tables.trie
        assert trie is not None
        vectors, masses = self.node_vectors(trie), None
        if memory.history is not None:
            assert memory.states is not None
            query = self.item_query(jnp.squeeze(memory.states, axis=1))  # one target a user
            own = own_vectors(trie, self.node_embedding[...]).astype(vectors.dtype)
            masses = node_masses(query, memory.history, trie, vectors, own)
        return TrieWriter(
            self.decoder,
            self.shape.blocks,
            memory.cross,
            trie,
            vectors,
            self.token_embedding[...],
            memory.states,
            masses,
        )

    def cast_names(self) -> tuple[str, ...]:
        # The encoder adds up rows of the other tables in float32.
        return ("pointer",) if self.shape.encoder_prior == "copying" else ()

    # ------------------------------------------------------------------ the encoder

    def _read(self, read: ItemInput, key: Key = None, rematerialise: bool = False) -> Memory:
        positions = None
        if self.shape.reversed_positions:
            positions = jnp.maximum(read.last - jnp.arange(read.look.shape[-1]), 0)
        encoded = self.encoder(self.vectors(read), read.look, key, rematerialise, positions)
        look, states, history = read.look, None, None
        if self.shape.encoder_prior != "none":
            states = jnp.take_along_axis(encoded, read.queries[..., None], axis=1)
        if look.shape[1] > 1:
            look = jnp.take_along_axis(look, read.queries[..., None], axis=1)
        if self.shape.encoder_prior == "copying":
            assert states is not None
            history = History(read.items, self.copy_scores(read, encoded, states))
        if self.shape.encoder_prior == "new_items":
            history = History(read.items, None)
        return Memory(CrossMemory(self.decoder.memory(encoded), look), states, history)

    def vectors(self, read: ItemInput) -> Float[Array, "B T D"]:
        """What the encoder reads, without the positions."""
        tokens = self.token_embedding[...]
        begin = jnp.sum(table_lookup(tokens, read.user_tokens), axis=1)
        begin += table_lookup(self.user_embedding[...], read.users)
        items = jnp.sum(table_lookup(tokens, read.item_tokens), axis=2)
        items += table_lookup(self.item_embedding[...], read.items)
        return jnp.concatenate([begin[:, None], items], axis=1).astype(self.shape.dtype)

    def copy_scores(
        self, read: ItemInput, encoded: Float[Array, "B T D"], query: Float[Array, "B 1 D"]
    ) -> Float[Array, "B H"]:
        """Logits, beside those of all items, of recommending each item of the history again.

        A product of the query's vector with the item's, and how recent the item is.
        """
        products = jnp.einsum(
            "bgd,de,bte->bt",
            query,
            self.pointer[...].astype(query.dtype),
            encoded[:, 1:],
            preferred_element_type=jnp.float32,
        )
        since = jnp.maximum(read.last - 1 - jnp.arange(products.shape[1]), 0)
        return products / self.shape.d_model**0.5 + self.pointer_recency[...][since]

    # ------------------------------------------------------------------ vectors of nodes

    def node_vectors(self, trie: DeviceTrie) -> Float[Array, "M_padded D"]:
        """The vectors of the trie's nodes; at a leaf, its item's output vector."""
        table = self.item_embedding[...]
        items = of_length_1(table) if self.shape.temperature else table
        return node_vectors(trie, self.node_embedding[...], items).astype(self.shape.dtype)

    def item_query(self, states: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        """What the items' output vectors are multiplied with, scaled if there is a temperature."""
        if not self.shape.temperature:
            return states
        return (of_length_1(states) / self.shape.temperature).astype(states.dtype)
