"""GenRec: BART extended with a user id table and an item id table (equation 2 of the paper).

    X_j = EMB(S_j) + PosEMB(j) + IDEMB(ID(j))

where IDEMB is the user table for tokens of a user's name, the item table for tokens of an item's
name, and zero for `<s>`, `</s>`, `<pad>` and `<mask>`. The two tables are separate and as large as
the data. The decoder has no ids. The token embedding is tied to the output.

Two things may differ from the paper. The encoder may read one vector an item instead of one a token
(item_inputs.py). And the decoder may score the children of a trie node instead of the vocabulary
(trie_head.py), or be left out: an item's probability is then the softmax, over all items, of the
encoder's vector at the question with the items' id vectors. With a temperature that product is
their cosine over it, wherever the encoder's vector scores items.

Axes: B users, G questions a user, T encoder tokens, S decoder tokens, V vocabulary, D width,
U users, N items.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from genrec_jax.layers.dropout import Key, split
from genrec_jax.layers.linear import of_length_1, with_rows
from genrec_jax.models.bart import BartShape, Decoder, Encoder, History, Memory
from genrec_jax.models.device_trie import DeviceTrie
from genrec_jax.models.inputs import EncoderInput, table_lookup
from genrec_jax.models.item_inputs import ItemInput, Sentence, Unit
from genrec_jax.models.trie_head import node_vectors

Params = dict[str, Any]  # the nested dict of arrays that is trained and saved
Head = Literal["vocabulary", "trie", "item"]
Residual = Literal["none", "vector", "items", "unseen"]
CountFrom = Literal["start", "end"]


@dataclass(frozen=True)
class GenRecShape(BartShape):
    """BART's sizes, and in what a model differs from the paper's; the defaults are the paper's."""

    encoder_unit: Unit = "token"
    head: Head = "vocabulary"
    count_from: CountFrom = "start"  # the encoder's positions; end: the last token has position 0
    # Encoder tokens of the longest input that training read, and so the longest that ranking may
    # read: positions beyond were never trained. 0: all are, as in a pretrained BART.
    longest_input: int = 0
    residual: Residual = "none"  # with head=trie: what goes round the decoder too
    inner_nodes: int = 0  # with head=trie: nodes of the trie that are no items
    temperature: float = 0.0  # of items that the encoder scores by their cosine; 0: by the product

    @property
    def is_papers(self) -> bool:
        return self.encoder_unit == "token" and self.head == "vocabulary"


class GenRec(nnx.Module):
    """Embedding tables, encoder, decoder, and the tied output."""

    def __init__(self, shape: BartShape, n_users: int, n_items: int, rngs: nnx.Rngs):
        self.shape = shape if isinstance(shape, GenRecShape) else GenRecShape(**vars(shape))
        normal = nnx.initializers.normal(shape.init_std)

        def table(rows: int) -> nnx.Param[jax.Array]:
            return nnx.Param(normal(rngs.params(), (rows, shape.d_model)))

        self.token_embedding = table(shape.vocab_size)
        self.user_embedding = table(n_users)
        self.item_embedding = table(n_items)
        if self.shape.head == "vocabulary":
            self.final_logits_bias = nnx.Param(jnp.zeros(shape.vocab_size))
        if self.shape.head == "trie":
            self.node_embedding = table(self.shape.inner_nodes)
        if self.shape.residual == "items":
            self.pointer = table(shape.d_model)
            self.pointer_recency = nnx.Param(jnp.zeros(shape.max_positions))
        self.encoder = Encoder(shape, rngs)
        if self.shape.head != "item":
            self.decoder = Decoder(shape, rngs)

    def __call__(
        self,
        sentence: Sentence,
        decoder_tokens: Int[Array, "B S"],
        key: Key = None,
        rematerialise: bool = False,
    ) -> Float[Array, "B S V"]:
        """Logits of every decoder position; dropout is on if a key is given.

        With `rematerialise` the backward pass keeps only what goes into each layer, and computes
        the rest again: less memory, a third more arithmetic.
        """
        encoder_key, decoder_key = split(key, 2)
        memory = self.read(sentence, encoder_key, rematerialise)
        positions = jnp.arange(decoder_tokens.shape[1])
        causal = jnp.tril(jnp.ones((1, len(positions), len(positions)), dtype=bool))
        x, _ = self.decoder(
            self.embed(decoder_tokens),
            positions,
            causal,
            memory,
            decoder_key,
            rematerialise=rematerialise,
        )
        return self.logits(x)

    def read(self, sentence: Sentence, key: Key = None, rematerialise: bool = False) -> Memory:
        """The encoder, and what every layer of the decoder will look up of its vectors."""
        encoded = self.encode(sentence, key, rematerialise)
        look, states = sentence.look, None
        if self.shape.head == "item" or self.shape.residual != "none":
            states = jnp.take_along_axis(encoded, sentence.questions[..., None], axis=1)
        if look.shape[1] > 1:
            look = jnp.take_along_axis(look, sentence.questions[..., None], axis=1)
        layers = [] if self.shape.head == "item" else self.decoder.memory(encoded)
        history = None
        if self.shape.residual in ("items", "unseen"):
            assert isinstance(sentence, ItemInput)
            pointers = None
            if self.shape.residual == "items":
                assert states is not None
                pointers = self.point(sentence, encoded, states)
            history = History(sentence.items, pointers)
        return Memory(layers, look, states, history)

    def point(
        self, sentence: ItemInput, encoded: Float[Array, "B T D"], asked: Float[Array, "B 1 D"]
    ) -> Float[Array, "B H"]:
        """How much the one question wants each item of the history again.

        A product of its vector with the item's, and how far the item stands from the end.
        """
        products = jnp.einsum(
            "bgd,de,bte->bt",
            asked,
            self.pointer[...].astype(asked.dtype),
            encoded[:, 1:],
            preferred_element_type=jnp.float32,
        )
        since = jnp.maximum(sentence.last - 1 - jnp.arange(products.shape[1]), 0)
        return products / self.shape.d_model**0.5 + self.pointer_recency[...][since]

    def encode(
        self, sentence: Sentence, key: Key = None, rematerialise: bool = False
    ) -> Float[Array, "B T D"]:
        positions = None
        if self.shape.count_from == "end":
            slots = jnp.arange(sentence.look.shape[-1])
            positions = jnp.maximum(sentence.last - slots, 0)
        x = self.vectors(sentence)
        return self.encoder(x, sentence.look, key, rematerialise, positions)

    def vectors(self, sentence: Sentence) -> Float[Array, "B T D"]:
        """What the encoder reads, but for the positions."""
        if isinstance(sentence, EncoderInput):
            ids = self.id_vectors(sentence)
            return self.embed(sentence.tokens) + ids.astype(self.shape.dtype)
        tokens = self.token_embedding[...]
        begin = jnp.sum(table_lookup(tokens, sentence.user_tokens), axis=1)
        begin += table_lookup(self.user_embedding[...], sentence.users)
        items = jnp.sum(table_lookup(tokens, sentence.item_tokens), axis=2)
        items += table_lookup(self.item_embedding[...], sentence.items)
        return jnp.concatenate([begin[:, None], items], axis=1).astype(self.shape.dtype)

    def embed(self, tokens: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        return self.token_embedding[...][tokens].astype(self.shape.dtype)

    def id_vectors(self, sentence: EncoderInput) -> Float[Array, "B T D"]:
        """IDEMB(ID(j)). Looked up once a name, then spread over the tokens of the name."""
        user = table_lookup(self.user_embedding[...], sentence.users)[:, None]  # [B, 1, D]
        items = table_lookup(self.item_embedding[...], sentence.items)  # [B, H, D]
        by_slot = jnp.concatenate([user, items, jnp.zeros_like(user)], axis=1)  # [B, 1+H+1, D]
        return jnp.take_along_axis(by_slot, sentence.slots[..., None], axis=1)

    def logits(self, x: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """Float32. BART's bias is a constant of the checkpoint, not trained, as in PyTorch."""
        scores = with_rows(x, self.token_embedding[...].astype(x.dtype))
        return scores + jax.lax.stop_gradient(self.final_logits_bias[...])

    def node_vectors(self, trie: DeviceTrie) -> Float[Array, "M_padded D"]:
        """Of the trie's nodes, an item's output vector at its leaf."""
        vectors = node_vectors(trie, self.node_embedding[...], self.item_vectors())
        return vectors.astype(self.shape.dtype)

    def item_vectors(self) -> Float[Array, "N D"]:
        """Of the output: the id vectors, of length 1 where there is a temperature."""
        table = self.item_embedding[...]
        return of_length_1(table) if self.shape.temperature else table

    def item_question(self, states: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        """What the items' output vectors are multiplied with, of the encoder's vectors."""
        if not self.shape.temperature:
            return states
        return (of_length_1(states) / self.shape.temperature).astype(states.dtype)

    def item_logits(self, states: Float[Array, "B G D"]) -> Float[Array, "B G N"]:
        """Float32, of every item."""
        return with_rows(self.item_question(states), self.item_vectors().astype(states.dtype))


def abstract_model(shape: BartShape, n_users: int, n_items: int) -> tuple[Any, Params]:
    """The graph definition and the shapes of the parameters; nothing is allocated."""
    model = nnx.eval_shape(lambda: GenRec(shape, n_users, n_items, nnx.Rngs(0)))
    graph, state = nnx.split(model)
    return graph, with_string_keys(nnx.to_pure_dict(state))


def init_params(shape: BartShape, n_users: int, n_items: int, seed: int) -> Params:
    """Random parameters: matrices and tables normal with `shape.init_std`, norms 1, biases 0.

    Drawn on the host, so that they are the same on every device and nothing is compiled.
    """
    _, like = abstract_model(shape, n_users, n_items)
    rng = np.random.default_rng([seed, 0x171])

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.ndim > 1:
            return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) * shape.init_std)
        return jnp.full(leaf.shape, path[-1].key == "scale", jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, like)


def merge(graph: Any, params: Params) -> GenRec:
    """The module with these parameters; cheap, and meant to be called inside jit."""
    return nnx.merge(graph, _with_int_keys(params))


def with_string_keys(tree: Any) -> Any:
    """NNX numbers the layers of a list with ints; checkpoints want names."""
    if not isinstance(tree, dict):
        return tree
    return {str(key): with_string_keys(value) for key, value in tree.items()}


def _with_int_keys(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: _with_int_keys(value) for k, value in tree.items()}
