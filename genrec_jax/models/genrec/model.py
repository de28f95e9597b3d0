"""GenRec: BART extended with a user id table and an item id table (equation 2 of the paper).

    X_j = EMB(S_j) + PosEMB(j) + IDEMB(ID(j))

where IDEMB is the user table for tokens of a user's name, the item table for tokens of an item's
name, and zero for `<s>`, `</s>`, `<pad>` and `<mask>`. The two tables are separate and as large as
the data. The decoder has no ids. The token embedding is tied to the output.

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
from genrec_jax.layers.linear import with_rows
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

POSITION_OFFSET = 2  # the first two rows of BART's position tables are never used


@dataclass(frozen=True)
class GenRecShape(ModelShape):
    """Sizes and rates of a BART model, and how its positions are used; BART-base by default."""

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
    user_dropout: float = 0.0  # share of training examples that lose their user's name and id
    reversed_positions: bool = False  # of the encoder: the last token has position 0

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
    """Embedding tables, encoder, decoder, and the tied output."""

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
        """Integers → `EncoderInput` and `DecoderInput` (inputs.py)."""
        assert tables.names is not None
        items, targets = mask_items(
            objective, keys and keys.mask, batch.histories, batch.targets, tables.names.mask_row
        )
        users = drop_users(keys and keys.users, batch.users, self.shape.user_dropout)
        answer = decoder_input(tables.names, targets)
        return Inputs(
            encoder_input(tables.names, users, items, length), answer, answer.weights[:, None]
        )

    def loss(self, tables: Tables, inputs: Inputs, key: Key, rematerialise: bool) -> LossTerms:
        """Cross-entropy of every token of the target's name and `</s>` over the vocabulary."""
        answer: DecoderInput = inputs.answer
        logits = self(inputs.read, answer.tokens, key, rematerialise)
        losses = cross_entropy(logits, answer.labels, answer.weights)
        return LossTerms(losses.loss[:, None], losses.correct[:, None])

    def encode(self, tables: Tables, read: EncoderInput) -> CrossMemory:
        return self.read(read)

    def writer(self, tables: Tables, memory: CrossMemory) -> VocabularyWriter:
        return VocabularyWriter(self.decoder, self.shape.decoder, memory, self.embed, self.logits)

    def cast_names(self) -> tuple[str, ...]:
        return ("token_embedding", "user_embedding", "item_embedding")

    # ------------------------------------------------------------------ the model

    def __call__(
        self,
        sentence: EncoderInput,
        decoder_tokens: Int[Array, "B S"],
        key: Key = None,
        rematerialise: bool = False,
    ) -> Float[Array, "B S V"]:
        """Logits of every decoder position; dropout is on if a key is given."""
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

    def read(
        self, sentence: EncoderInput, key: Key = None, rematerialise: bool = False
    ) -> CrossMemory:
        """Encode sentences, and project what every layer of the decoder will look up."""
        positions = None
        if self.shape.reversed_positions:
            positions = self.reversed_positions(sentence)
        x = self.vectors(sentence)
        encoded = self.encoder(x, sentence.look, key, rematerialise, positions)
        return CrossMemory(self.decoder.memory(encoded), sentence.look)

    @staticmethod
    def reversed_positions(sentence: EncoderInput) -> Int[Array, "B T"]:
        """Positions that count from the end: `</s>` has position 0."""
        return jnp.maximum(sentence.last - jnp.arange(sentence.tokens.shape[1]), 0)

    def vectors(self, sentence: EncoderInput) -> Float[Array, "B T D"]:
        """What the encoder reads, without the positions."""
        return self.embed(sentence.tokens) + self.id_vectors(sentence).astype(self.shape.dtype)

    def embed(self, tokens: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Token embeddings in the compute dtype."""
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
