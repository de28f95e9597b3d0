"""GenRec: BART extended with a user id table and an item id table (equation 2 of the paper).

    X_j = EMB(S_j) + PosEMB(j) + IDEMB(ID(j))

IDEMB is the user's vector for tokens of a user's identifier, the item's vector for tokens of an
item's identifier, and zero for `<s>`, `</s>`, `<pad>` and `<mask>`. Users and items have separate
tables. The decoder has no ids. The token embedding is tied to the output.

Axes: B users, T encoder tokens, S decoder tokens, V vocabulary, D width, U users, N items.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from genrec_jax.data.batches import Batch
from genrec_jax.layers.blocks import BlockShape
from genrec_jax.layers.decoder import CrossMemory, Decoder
from genrec_jax.layers.dropout import Key, split
from genrec_jax.layers.encoder import Encoder
from genrec_jax.layers.linear import row_products
from genrec_jax.layers.lookup import table_lookup
from genrec_jax.layers.losses import cross_entropy
from genrec_jax.models.contract import (
    GenerativeModel,
    InputKeys,
    Inputs,
    LossTerms,
    ModelShape,
    Objective,
)
from genrec_jax.models.genrec.inputs import (
    DecoderInput,
    EncoderInput,
    decoder_input,
    encoder_input,
)
from genrec_jax.models.genrec.writer import VocabularyWriter
from genrec_jax.models.masking import drop_users, mask_items
from genrec_jax.models.tables import Tables

POSITION_OFFSET = 2  # the first two rows of BART's position tables are unused


@dataclass(frozen=True)
class GenRecShape(ModelShape):
    """The sizes and dropout rates of the model, and the direction of its positions.

    The defaults are those of BART-base.
    """

    vocab_size: int = 50265
    d_model: int = 768
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_heads: int = 12
    decoder_heads: int = 12
    encoder_ffn_dim: int = 3072
    decoder_ffn_dim: int = 3072
    max_positions: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    user_dropout: float = 0.0  # share of training examples whose user is dropped
    reversed_positions: bool = False  # whether the encoder's last token has position 0

    @property
    def width(self) -> int:
        return self.d_model

    @property
    def encoder(self) -> BlockShape:
        """The shape of the encoder's layers."""
        return self._blocks(self.encoder_heads, self.encoder_ffn_dim)

    @property
    def decoder(self) -> BlockShape:
        """The shape of the decoder's layers."""
        return self._blocks(self.decoder_heads, self.decoder_ffn_dim)

    def module(self, n_users: int, n_items: int, rngs: nnx.Rngs) -> "GenRec":
        return GenRec(self, n_users, n_items, rngs)

    def _blocks(self, heads: int, ffn_dim: int) -> BlockShape:
        rates = (self.dropout, self.attention_dropout, self.activation_dropout)
        return BlockShape(self.d_model, heads, ffn_dim, *rates, self.init_std, self.dtype)


class GenRec(GenerativeModel):
    """The model: embedding tables, encoder, decoder, and an output tied to the token embedding."""

    def __init__(self, shape: GenRecShape, n_users: int, n_items: int, rngs: nnx.Rngs):
        self.shape = shape
        normal = nnx.initializers.normal(shape.init_std)

        def table(rows: int) -> nnx.Param[jax.Array]:
            return nnx.Param(normal(rngs.params(), (rows, shape.d_model)))

        self.token_embedding = table(shape.vocab_size)
        self.user_embedding = table(n_users)
        self.item_embedding = table(n_items)
        self.final_logits_bias = nnx.Param(jnp.zeros(shape.vocab_size))
        positions = (shape.max_positions, rngs, POSITION_OFFSET)
        self.encoder = Encoder(shape.encoder, shape.encoder_layers, *positions)
        self.decoder = Decoder(shape.decoder, shape.decoder_layers, *positions)

    # ------------------------------------------------------------------ the contract

    def make_inputs(
        self,
        tables: Tables,
        batch: Batch,
        objective: Objective,
        length: int,
        keys: InputKeys | None = None,
    ) -> Inputs:
        """Build the `EncoderInput` and the `DecoderInput` of a batch (inputs.py)."""
        assert tables.identifiers is not None
        items, targets = mask_items(
            objective,
            keys and keys.mask,
            batch.histories,
            batch.targets,
            tables.identifiers.mask_row,
        )
        users = drop_users(keys and keys.users, batch.users, self.shape.user_dropout)
        decoder = decoder_input(tables.identifiers, targets)
        return Inputs(
            encoder_input(tables.identifiers, users, items, length),
            decoder,
            decoder.weights[:, None],
        )

    def loss(self, tables: Tables, inputs: Inputs, key: Key, rematerialise: bool) -> LossTerms:
        """Compute the cross-entropy of the target's tokens and `</s>`, over the vocabulary."""
        decoder: DecoderInput = inputs.targets
        logits = self(inputs.encoder_input, decoder.tokens, key, rematerialise)
        losses = cross_entropy(logits, decoder.labels, decoder.weights)
        return LossTerms(losses.loss[:, None], losses.correct[:, None])

    def encode(self, tables: Tables, encoder_input: EncoderInput) -> CrossMemory:
        return self.cross_memory(encoder_input)

    def writer(self, tables: Tables, memory: CrossMemory) -> VocabularyWriter:
        return VocabularyWriter(self.decoder, self.shape.decoder, memory, self.embed, self.logits)

    def cast_names(self) -> tuple[str, ...]:
        return ("token_embedding", "user_embedding", "item_embedding")

    # ------------------------------------------------------------------ the model

    def __call__(
        self,
        inputs: EncoderInput,
        decoder_tokens: Int[Array, "B S"],
        key: Key = None,
        rematerialise: bool = False,
    ) -> Float[Array, "B S V"]:
        """Compute the logits of all decoder positions, with teacher forcing.

        Args:
            inputs: the encoder's input.
            decoder_tokens: the decoder's input.
            key: the random key of dropout; no dropout if None.
            rematerialise: whether to recompute activations in the backward pass to save memory.
        """
        encoder_key, decoder_key = split(key, 2)
        memory = self.cross_memory(inputs, encoder_key, rematerialise)
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

    def cross_memory(
        self, inputs: EncoderInput, key: Key = None, rematerialise: bool = False
    ) -> CrossMemory:
        """Encode input sequences, and compute the keys and values of the decoder's cross-attention.

        Args:
            inputs: the encoder's input.
            key: the random key of dropout; no dropout if None.
            rematerialise: whether to recompute activations in the backward pass to save memory.
        """
        positions = None
        if self.shape.reversed_positions:
            positions = self.reversed_positions(inputs)
        x = self.vectors(inputs)
        encoded = self.encoder(x, inputs.attention_mask, key, rematerialise, positions)
        return CrossMemory(self.decoder.memory(encoded), inputs.attention_mask)

    @staticmethod
    def reversed_positions(inputs: EncoderInput) -> Int[Array, "B T"]:
        """Return positions that are counted from the end: 0 for `</s>` and for padding."""
        return jnp.maximum(inputs.last - jnp.arange(inputs.tokens.shape[1]), 0)

    def vectors(self, inputs: EncoderInput) -> Float[Array, "B T D"]:
        """Return the encoder's input embeddings, without positions: EMB(S_j) + IDEMB(ID(j))."""
        return self.embed(inputs.tokens) + self.id_vectors(inputs).astype(self.shape.dtype)

    def embed(self, tokens: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Look up token embeddings, cast to the compute dtype."""
        return self.token_embedding[...][tokens].astype(self.shape.dtype)

    def id_vectors(self, inputs: EncoderInput) -> Float[Array, "B T D"]:
        """Return IDEMB(ID(j)) of every token, looked up once per identifier."""
        user = table_lookup(self.user_embedding[...], inputs.users)[:, None]  # [B, 1, D]
        items = table_lookup(self.item_embedding[...], inputs.items)  # [B, H, D]
        by_segment = jnp.concatenate([user, items, jnp.zeros_like(user)], axis=1)  # [B, 1+H+1, D]
        return jnp.take_along_axis(by_segment, inputs.segments[..., None], axis=1)

    def logits(self, x: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """Compute logits over the vocabulary in float32; as in PyTorch, the bias is not trained."""
        scores = row_products(x, self.token_embedding[...].astype(x.dtype))
        return scores + jax.lax.stop_gradient(self.final_logits_bias[...])
