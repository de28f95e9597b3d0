"""Transformer blocks with the normalisation after each sum, as BART has them (Lewis et al. 2020).

Exact (erf) GELU, epsilon 1e-5: what `transformers` computes, which
tests/models/genrec/test_parity.py checks. Dropout is on where a key is given. Attention scores,
their softmax and the sum of the weighted values are float32 whatever the compute dtype.

Axes: B batch, T encoder positions, S decoder positions, D width, h heads, d width of a head;
`length` is the number of keys that an attention can see.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.layers.dropout import Key, dropout, split
from genrec_jax.layers.linear import Linear
from genrec_jax.layers.low_pass import LowPass

EPSILON = 1e-5


@dataclass(frozen=True)
class BlockShape:
    """Sizes and rates of the blocks of one stack."""

    width: int  # D
    heads: int
    ffn_dim: int  # width of the feed-forward part
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    init_std: float = 0.02
    dtype: str = "float32"  # of the arithmetic; parameters are float32


class KeyValue(NamedTuple):
    """Projected keys and values of one attention: [B, length, h, d] each."""

    keys: Float[Array, "B length h d"]
    values: Float[Array, "B length h d"]


def linear(n_in: int, n_out: int, shape: BlockShape, rngs: nnx.Rngs) -> Linear:
    """A linear layer with the stack's initialisation and compute dtype."""
    return Linear(
        n_in,
        n_out,
        kernel_init=nnx.initializers.normal(shape.init_std),
        dtype=jnp.dtype(shape.dtype),
        rngs=rngs,
    )


def layer_norm(shape: BlockShape, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A layer norm over the width with BART's epsilon and the stack's compute dtype."""
    return nnx.LayerNorm(shape.width, epsilon=EPSILON, dtype=jnp.dtype(shape.dtype), rngs=rngs)


class Attention(nnx.Module):
    """Multi-head attention. Queries attend to keys and values that may be cached."""

    def __init__(self, shape: BlockShape, rngs: nnx.Rngs):
        d = shape.width
        self.heads = shape.heads
        self.scale = (d // shape.heads) ** -0.5
        self.rate = shape.attention_dropout
        self.query = linear(d, d, shape, rngs)
        self.key = linear(d, d, shape, rngs)
        self.value = linear(d, d, shape, rngs)
        self.out = linear(d, d, shape, rngs)

    def key_value(self, x: Float[Array, "B length D"]) -> KeyValue:
        """Project vectors to the keys and values that queries attend to."""
        return KeyValue(self._heads(self.key(x)), self._heads(self.value(x)))

    def __call__(
        self,
        x: Float[Array, "B S D"],
        memory: KeyValue,
        mask: Bool[Array, "#B #S length"],
        key: Key = None,
    ) -> Float[Array, "B S D"]:
        """Attend from `x` to `memory`; `mask` is True where a query may look."""
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

    def __init__(self, shape: BlockShape, rngs: nnx.Rngs):
        self.rate = shape.activation_dropout
        self.up = linear(shape.width, shape.ffn_dim, shape, rngs)
        self.down = linear(shape.ffn_dim, shape.width, shape, rngs)

    def __call__(self, x: Float[Array, "B S D"], key: Key) -> Float[Array, "B S D"]:
        return self.down(dropout(jax.nn.gelu(self.up(x), approximate=False), self.rate, key))


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each added to its input and then normalised.

    With `low_pass`, that share of the attention's result comes from a filter instead.
    """

    def __init__(self, shape: BlockShape, rngs: nnx.Rngs, low_pass: float = 0.0):
        self.rate = shape.dropout
        self.attention = Attention(shape, rngs)
        self.attention_norm = layer_norm(shape, rngs)
        self.feed_forward = FeedForward(shape, rngs)
        self.final_norm = layer_norm(shape, rngs)
        self.share = low_pass
        if low_pass:
            self.low_pass = LowPass(layer_norm(shape, rngs), shape.width, shape.dropout)

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

    def __init__(self, shape: BlockShape, rngs: nnx.Rngs):
        self.rate = shape.dropout
        self.self_attention = Attention(shape, rngs)
        self.self_attention_norm = layer_norm(shape, rngs)
        self.cross_attention = Attention(shape, rngs)
        self.cross_attention_norm = layer_norm(shape, rngs)
        self.feed_forward = FeedForward(shape, rngs)
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
        """Transform the vectors of a decoder's tokens.

        Args:
            x: the vectors. Several names of a user may follow each other in a row.
            own: keys and values of the decoder's tokens, with a row for each name.
            visible: which of these each token may see.
            memory: keys and values of the encoder.
            memory_mask: which of those each token may see.
            key: for dropout.
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

    def __init__(self, shape: BlockShape, positions: int, offset: int, rngs: nnx.Rngs):
        """`offset` rows come before that of position 0, as BART's checkpoints have them."""
        initializer = nnx.initializers.normal(shape.init_std)
        self.positions = nnx.Param(initializer(rngs.params(), (positions + offset, shape.width)))
        self.norm = layer_norm(shape, rngs)
        self.rate = shape.dropout
        self.offset = offset

    def __call__(
        self, x: Float[Array, "B S D"], positions: Int[Array, "*#B #S"], key: Key = None
    ) -> Float[Array, "B S D"]:
        rows = self.positions[...][self.offset + positions]
        return dropout(self.norm(x + rows.astype(x.dtype)), self.rate, key)
