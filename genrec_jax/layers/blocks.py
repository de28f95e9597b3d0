"""Post-norm transformer blocks, as in BART (Lewis et al. 2020).

They use the exact (erf) GELU and a layer-norm epsilon of 1e-5, as `transformers` does
(tests/models/genrec/test_parity.py). Dropout is on if a key is given. Attention scores, their
softmax and the sum of the weighted values are float32 in any compute dtype.

Axes: B batch, T encoder positions, S decoder positions, D width, h heads, d width of a head;
`length` is the number of keys that a query can attend to.
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
    heads: int  # attention heads, a divisor of `width`
    ffn_dim: int  # width of the feed-forward layer
    dropout: float = 0.1  # rate after the embedding and after each sublayer
    attention_dropout: float = 0.1  # rate on attention weights
    activation_dropout: float = 0.1  # rate after the GELU
    init_std: float = 0.02  # standard deviation of initial kernels and tables
    dtype: str = "float32"  # compute dtype; parameters are float32


class KeyValue(NamedTuple):
    """The projected keys and values of one attention layer."""

    keys: Float[Array, "B length h d"]
    values: Float[Array, "B length h d"]


def linear(n_in: int, n_out: int, shape: BlockShape, rngs: nnx.Rngs) -> Linear:
    """Make a linear layer with the stack's initialisation and compute dtype."""
    return Linear(
        n_in,
        n_out,
        kernel_init=nnx.initializers.normal(shape.init_std),
        dtype=jnp.dtype(shape.dtype),
        rngs=rngs,
    )


def layer_norm(shape: BlockShape, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Make a layer norm over the width with BART's epsilon and the stack's compute dtype."""
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
        attention_mask: Bool[Array, "#B #S length"],
        key: Key = None,
    ) -> Float[Array, "B S D"]:
        """Return the attention of the vectors `x` to the keys and values `memory`.

        Args:
            x: the vectors that the queries are projected from.
            memory: the keys and values, from `key_value`.
            attention_mask: True where a query may attend to a key.
            key: the dropout key; None turns dropout off.
        """
        query = self._heads(self.query(x) * self.scale)
        # Without the preferred type, scores are rounded to the dtype of x before the softmax: in
        # bfloat16 a score near 20 to a multiple of 1/8.
        scores = jnp.einsum(
            "bshd,bthd->bhst", query, memory.keys, preferred_element_type=jnp.float32
        )
        # Finite, so that a fully masked row has uniform weights instead of NaN.
        scores = jnp.where(attention_mask[:, None], scores, jnp.finfo(jnp.float32).min)
        weights = dropout(jax.nn.softmax(scores, axis=-1), self.rate, key)
        values = jnp.einsum(
            "bhst,bthd->bshd",
            weights.astype(x.dtype),
            memory.values,
            preferred_element_type=jnp.float32,
        )
        return self.out(values.reshape(x.shape).astype(x.dtype))

    def _heads(self, x: Float[Array, "B length D"]) -> Float[Array, "B length h d"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class FeedForward(nnx.Module):
    """Two linear layers with a GELU in between."""

    def __init__(self, shape: BlockShape, rngs: nnx.Rngs):
        self.rate = shape.activation_dropout
        self.up = linear(shape.width, shape.ffn_dim, shape, rngs)
        self.down = linear(shape.ffn_dim, shape.width, shape, rngs)

    def __call__(self, x: Float[Array, "B S D"], key: Key) -> Float[Array, "B S D"]:
        return self.down(dropout(jax.nn.gelu(self.up(x), approximate=False), self.rate, key))


class EncoderLayer(nnx.Module):
    """Self-attention and a feed-forward layer, each with a residual sum and a layer norm.

    With `low_pass` > 0 the output is a weighted mean of that of self-attention, with weight
    1 - `low_pass`, and that of a low-pass filter, with weight `low_pass`; then comes the
    feed-forward layer.
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
        attention_mask: Bool[Array, "B #T T"],
        key: Key,
        waves: Float[Array, "B T W"] | None = None,
    ) -> Float[Array, "B T D"]:
        keys = split(key, 4 if waves is None else 5)
        attended = self.attention(x, self.attention.key_value(x), attention_mask, keys[0])
        attended = self.attention_norm(x + dropout(attended, self.rate, keys[1]))
        if waves is None:
            x = attended
        else:
            x = self.share * self.low_pass(x, waves, keys[4]) + (1 - self.share) * attended
        return self.final_norm(x + dropout(self.feed_forward(x, keys[2]), self.rate, keys[3]))


class DecoderLayer(nnx.Module):
    """Self-attention, cross-attention and a feed-forward layer, each post-norm."""

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
        key_value: KeyValue,
        attention_mask: Bool[Array, "#n #s length"],
        memory: KeyValue,
        encoder_attention_mask: Bool[Array, "B #S T"],
        key: Key,
    ) -> Float[Array, "B S D"]:
        """Apply the layer to the vectors of decoder tokens.

        Args:
            x: the tokens' vectors. A user's row may contain several identifiers one after another.
            key_value: keys and values for self-attention, with a row for each identifier.
            attention_mask: True where a token may attend to a key of `key_value`.
            memory: keys and values of the encoder positions, for cross-attention.
            encoder_attention_mask: True where a token may attend to an encoder position.
            key: the dropout key; None turns dropout off.
        """
        keys = split(key, 6)
        queries = x.reshape(len(key_value.keys), -1, x.shape[-1])
        attended = self.self_attention(queries, key_value, attention_mask, keys[0])
        attended = attended.reshape(x.shape)
        x = self.self_attention_norm(x + dropout(attended, self.rate, keys[1]))
        attended = self.cross_attention(x, memory, encoder_attention_mask, keys[2])
        x = self.cross_attention_norm(x + dropout(attended, self.rate, keys[3]))
        return self.final_norm(x + dropout(self.feed_forward(x, keys[4]), self.rate, keys[5]))


class Embedding(nnx.Module):
    """Learned position embeddings, added to embedded tokens, and a layer norm."""

    def __init__(self, shape: BlockShape, positions: int, offset: int, rngs: nnx.Rngs):
        """Make the table, whose row `offset` is position 0, as in BART's checkpoints."""
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
