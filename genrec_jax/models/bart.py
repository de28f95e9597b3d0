"""BART's encoder and decoder (Lewis et al. 2020) as Flax NNX modules.

Post-norm blocks, learned positions with an offset of 2, a layer norm on the embeddings, exact
(erf) GELU, epsilon 1e-5: what `transformers` computes, held to by tests/models/test_parity.py.

Embedded tokens come in from outside (the token embedding is tied to the output and the id tables
are added by genrec.py). Dropout is on where a key is given. Attention scores, their softmax and the
sum of the weighted values are float32 whatever the compute dtype.

One decoder serves training, beams and trees: its tokens need not be a sequence, each has a position
and a row of what it may see.

Axes: B batch, T encoder tokens, S decoder tokens, D width, h heads, d width of a head; `length` is
the number of keys that an attention looks at.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.layers.dropout import Key, dropout, split
from genrec_jax.layers.linear import Linear
from genrec_jax.layers.low_pass import LowPass, make_waves

POSITION_OFFSET = 2  # the first two rows of BART's position tables are never used
EPSILON = 1e-5


@dataclass(frozen=True)
class BartShape:
    """Sizes and rates of a BART model; the defaults are BART-base."""

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
    init_std: float = 0.02
    dtype: str = "float32"  # of the arithmetic; parameters are float32
    low_pass: float = 0.0  # share of layers/low_pass.py in the encoder's attention, 0 in BART
    frequencies: int = 3  # that it lets through


class KeyValue(NamedTuple):
    """Projected keys and values of one attention: [B, length, h, d] each."""

    keys: Float[Array, "B length h d"]
    values: Float[Array, "B length h d"]


def linear(n_in: int, n_out: int, shape: BartShape, rngs: nnx.Rngs) -> Linear:
    return Linear(
        n_in,
        n_out,
        kernel_init=nnx.initializers.normal(shape.init_std),
        dtype=jnp.dtype(shape.dtype),
        rngs=rngs,
    )


def layer_norm(shape: BartShape, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(shape.d_model, epsilon=EPSILON, dtype=jnp.dtype(shape.dtype), rngs=rngs)


class Attention(nnx.Module):
    """Multi-head attention. Queries attend to keys and values that may be cached."""

    def __init__(self, shape: BartShape, heads: int, rngs: nnx.Rngs):
        d = shape.d_model
        self.heads = heads
        self.scale = (d // heads) ** -0.5
        self.rate = shape.attention_dropout
        self.query = linear(d, d, shape, rngs)
        self.key = linear(d, d, shape, rngs)
        self.value = linear(d, d, shape, rngs)
        self.out = linear(d, d, shape, rngs)

    def key_value(self, x: Float[Array, "B length D"]) -> KeyValue:
        return KeyValue(self._heads(self.key(x)), self._heads(self.value(x)))

    def __call__(
        self,
        x: Float[Array, "B S D"],
        memory: KeyValue,
        mask: Bool[Array, "#B #S length"],
        key: Key = None,
    ) -> Float[Array, "B S D"]:
        """`mask` is True where a query may look."""
        query = self._heads(self.query(x) * self.scale)
        # Without the preferred type the scores are rounded to x's before the softmax sees them:
        # a score near 20 to a multiple of 1/8 in bfloat16.
        scores = jnp.einsum(
            "bshd,bthd->bhst", query, memory.keys, preferred_element_type=jnp.float32
        )
        # Finite, so that a row that may look nowhere gets an even spread and no NaN.
        scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
        weights = dropout(jax.nn.softmax(scores, axis=-1), self.rate, key)
        mixed = jnp.einsum(
            "bhst,bthd->bshd",
            weights.astype(x.dtype),
            memory.values,
            preferred_element_type=jnp.float32,
        )
        return self.out(mixed.reshape(x.shape).astype(x.dtype))

    def _heads(self, x: Float[Array, "B length D"]) -> Float[Array, "B length h d"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class FeedForward(nnx.Module):
    """Two linear layers around a GELU."""

    def __init__(self, shape: BartShape, width: int, rngs: nnx.Rngs):
        self.rate = shape.activation_dropout
        self.up = linear(shape.d_model, width, shape, rngs)
        self.down = linear(width, shape.d_model, shape, rngs)

    def __call__(self, x: Float[Array, "B S D"], key: Key) -> Float[Array, "B S D"]:
        return self.down(dropout(jax.nn.gelu(self.up(x), approximate=False), self.rate, key))


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each added to its input and then normalised."""

    def __init__(self, shape: BartShape, rngs: nnx.Rngs):
        self.rate = shape.dropout
        self.attention = Attention(shape, shape.encoder_heads, rngs)
        self.attention_norm = layer_norm(shape, rngs)
        self.feed_forward = FeedForward(shape, shape.encoder_ffn_dim, rngs)
        self.final_norm = layer_norm(shape, rngs)
        self.share = shape.low_pass
        if shape.low_pass:
            self.low_pass = LowPass(layer_norm(shape, rngs), shape.d_model, shape.dropout)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        mask: Bool[Array, "B #T T"],
        key: Key,
        waves: Float[Array, "B T W"] | None = None,
    ) -> Float[Array, "B T D"]:
        keys = split(key, 4 if waves is None else 5)
        attended = self.attention(x, self.attention.key_value(x), mask, keys[0])
        attended = self.attention_norm(x + dropout(attended, self.rate, keys[1]))
        if waves is None:
            x = attended
        else:
            x = self.share * self.low_pass(x, waves, keys[4]) + (1 - self.share) * attended
        return self.final_norm(x + dropout(self.feed_forward(x, keys[2]), self.rate, keys[3]))


class DecoderLayer(nnx.Module):
    """Causal self-attention, attention to the encoder, feed-forward; post-norm each."""

    def __init__(self, shape: BartShape, rngs: nnx.Rngs):
        self.rate = shape.dropout
        self.self_attention = Attention(shape, shape.decoder_heads, rngs)
        self.self_attention_norm = layer_norm(shape, rngs)
        self.cross_attention = Attention(shape, shape.decoder_heads, rngs)
        self.cross_attention_norm = layer_norm(shape, rngs)
        self.feed_forward = FeedForward(shape, shape.decoder_ffn_dim, rngs)
        self.final_norm = layer_norm(shape, rngs)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        own: KeyValue,
        visible: Bool[Array, "#n #s length"],
        memory: KeyValue,
        memory_mask: Bool[Array, "B #S T"],
        key: Key,
    ) -> Float[Array, "B S D"]:
        """`own` are the keys and values of the decoder's tokens, `memory` those of the encoder.

        Where x holds several names one after the other, `own` has a row for each.
        """
        keys = split(key, 6)
        names = x.reshape(len(own.keys), -1, x.shape[-1])
        attended = self.self_attention(names, own, visible, keys[0]).reshape(x.shape)
        x = self.self_attention_norm(x + dropout(attended, self.rate, keys[1]))
        attended = self.cross_attention(x, memory, memory_mask, keys[2])
        x = self.cross_attention_norm(x + dropout(attended, self.rate, keys[3]))
        return self.final_norm(x + dropout(self.feed_forward(x, keys[4]), self.rate, keys[5]))


class Embedding(nnx.Module):
    """Adds learned positions to embedded tokens and normalises the sum."""

    def __init__(self, shape: BartShape, rngs: nnx.Rngs):
        rows = shape.max_positions + POSITION_OFFSET
        initializer = nnx.initializers.normal(shape.init_std)
        self.positions = nnx.Param(initializer(rngs.params(), (rows, shape.d_model)))
        self.norm = layer_norm(shape, rngs)
        self.rate = shape.dropout

    def __call__(
        self, x: Float[Array, "B S D"], positions: Int[Array, "*#B #S"], key: Key = None
    ) -> Float[Array, "B S D"]:
        rows = self.positions[...][POSITION_OFFSET + positions]
        return dropout(self.norm(x + rows.astype(x.dtype)), self.rate, key)


class Encoder(nnx.Module):
    """Embedded tokens → one vector a token."""

    def __init__(self, shape: BartShape, rngs: nnx.Rngs):
        self.shape = shape
        self.embedding = Embedding(shape, rngs)
        self.layers = nnx.List([EncoderLayer(shape, rngs) for _ in range(shape.encoder_layers)])

    def __call__(
        self,
        x: Float[Array, "B T D"],
        look: Bool[Array, "B #T T"],
        key: Key,
        rematerialise: bool = False,
        positions: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """`look` is True where a token may look, the same for all in BART.

        With `rematerialise` the backward pass computes the layers' inner values again. `positions`
        are 0, 1, 2, … if not given.
        """
        if positions is None:
            positions = jnp.arange(x.shape[1])
        keys = split(key, 1 + len(self.layers))
        x = self.embedding(x, positions, keys[0])
        waves = None
        if self.shape.low_pass:
            there = jnp.any(look, axis=1)
            shape = self.shape
            waves = make_waves(positions, there, shape.max_positions, shape.frequencies)
        for layer, layer_key in zip(self.layers, keys[1:], strict=True):
            run = jax.checkpoint(layer) if rematerialise else layer
            x = run(x, look, layer_key, waves)
        return x


class History(NamedTuple):
    """What an output that treats the items of the history in its own way knows of them."""

    items: Int[Array, "B H"]  # rows, -1 for none
    # Logits, beside those of the items, of saying each again. None: none is said again.
    pointers: Float[Array, "B H"] | None


class Memory(NamedTuple):
    """What the decoder sees of each sentence: computed once, however many tokens it decodes.

    A sentence asks G questions, one in the paper: an item each.
    """

    layers: list[KeyValue]  # of each layer's cross-attention, [B, T, h, d]
    look: Bool[Array, "B #Q T"]  # where each question (or token) may look, False at padding
    # The encoder's vectors at the questions, where the decoder's input or the output needs them.
    states: Float[Array, "B G D"] | None = None
    history: History | None = None  # where the output needs it


class Decoder(nnx.Module):
    """Embedded tokens and the encoder's vectors → one vector a token."""

    def __init__(self, shape: BartShape, rngs: nnx.Rngs):
        self.embedding = Embedding(shape, rngs)
        self.layers = nnx.List([DecoderLayer(shape, rngs) for _ in range(shape.decoder_layers)])

    def memory(self, encoded: Float[Array, "B T D"]) -> list[KeyValue]:
        return [layer.cross_attention.key_value(encoded) for layer in self.layers]

    def __call__(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, " #S"],
        visible: Bool[Array, "#n #s length"],
        memory: Memory,
        key: Key = None,
        cache: list[KeyValue] | None = None,
        slot: Int[Array, ""] | int = 0,
        rematerialise: bool = False,
        names: int = 1,
    ) -> tuple[Float[Array, "B S D"], list[KeyValue]]:
        """The vectors of S tokens, and the keys and values of all tokens so far.

        Args:
            x: embedded tokens.
            positions: where in their names they stand.
            visible: which of the `length` keys each token may see, itself among them.
            memory: of the encoder.
            key: for dropout.
            cache: keys and values of earlier tokens, with room for these; None: there are none,
                and length = S.
            slot: where in the cache these tokens' keys and values go.
            rematerialise: the backward pass computes the layers' inner values again.
            names: that the tokens of a row are, one after the other and equally long (n = B * names
                of s tokens each). A token sees those of its own name alone.
        """
        keys = split(key, 1 + len(self.layers))
        x = self.embedding(x, positions, keys[0])
        all_own = []
        for i, layer in enumerate(self.layers):
            own = layer.self_attention.key_value(x.reshape(names * len(x), -1, x.shape[-1]))
            if cache is not None:
                own = KeyValue(*(_write(*pair, slot) for pair in zip(cache[i], own, strict=True)))
            all_own.append(own)
            run = jax.checkpoint(layer) if rematerialise else layer
            x = run(x, own, visible, memory.layers[i], memory.look, keys[1 + i])
        return x, all_own


def _write(
    whole: Float[Array, "B length h d"], part: Float[Array, "B S h d"], slot: Int[Array, ""] | int
) -> Float[Array, "B length h d"]:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, slot, axis=1)
