"""A stack of decoder layers, for training, beam search and blocks of trie nodes.

The tokens of a row need not form a sequence: each has a position and an attention mask.

Axes: B batch, T encoder positions, S decoder tokens, D width, h heads, d width of a head; `length`
is the number of keys that a token can attend to.
"""

from typing import NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.layers.blocks import BlockShape, DecoderLayer, Embedding, KeyValue
from genrec_jax.layers.dropout import Key, split


class CrossMemory(NamedTuple):
    """The encoder's keys and values for cross-attention, computed once per history."""

    layers: list[KeyValue]  # keys and values for each decoder layer, [B, T, h, d]
    attention_mask: Bool[Array, "B #S T"]  # True where a token may attend, False at padding


class Decoder(nnx.Module):
    """Position embeddings and decoder layers; returns a vector per token."""

    def __init__(
        self, shape: BlockShape, layers: int, positions: int, rngs: nnx.Rngs, offset: int = 0
    ):
        """Make the decoder.

        Args:
            shape: sizes and rates of the layers.
            layers: the number of layers.
            positions: the number of positions.
            rngs: random streams for the initialisation.
            offset: the row of position 0 in the position table.
        """
        self.embedding = Embedding(shape, positions, offset, rngs)
        self.layers = nnx.List([DecoderLayer(shape, rngs) for _ in range(layers)])

    def memory(self, encoded: Float[Array, "B T D"]) -> list[KeyValue]:
        """Compute the keys and values of each layer's cross-attention."""
        return [layer.cross_attention.key_value(encoded) for layer in self.layers]

    def __call__(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, " #S"],
        attention_mask: Bool[Array, "#n #s length"],
        memory: CrossMemory,
        key: Key = None,
        cache: list[KeyValue] | None = None,
        cache_index: Int[Array, ""] | int = 0,
        rematerialise: bool = False,
        targets: int = 1,
    ) -> tuple[Float[Array, "B S D"], list[KeyValue]]:
        """Return the vectors of S tokens.

        Args:
            x: embedded tokens.
            positions: the position of each token in its identifier.
            attention_mask: True where a token may attend to one of the `length` keys, which include
                its own.
            memory: keys and values of the encoder positions.
            key: the dropout key; None turns dropout off.
            cache: each layer's keys and values of earlier tokens, with room for the S tokens. None
                if there are no earlier tokens; then length = S.
            cache_index: the cache index at which the keys and values of the S tokens are written.
            rematerialise: whether the backward pass recomputes the layers' activations.
            targets: the number of identifiers in a row, each of s tokens (n = B * targets). A token
                attends only to tokens of the same identifier.

        Returns:
            The tokens' vectors, and each layer's keys and values of all tokens so far.
        """
        keys = split(key, 1 + len(self.layers))
        x = self.embedding(x, positions, keys[0])
        key_values = []
        for i, layer in enumerate(self.layers):
            key_value = layer.self_attention.key_value(x.reshape(targets * len(x), -1, x.shape[-1]))
            if cache is not None:
                key_value = KeyValue(
                    *(_write(*pair, cache_index) for pair in zip(cache[i], key_value, strict=True))
                )
            key_values.append(key_value)
            run = jax.checkpoint(layer) if rematerialise else layer
            cross = (memory.layers[i], memory.attention_mask)
            x = run(x, key_value, attention_mask, *cross, keys[1 + i])
        return x, key_values


def _write(
    whole: Float[Array, "B length h d"],
    part: Float[Array, "B S h d"],
    cache_index: Int[Array, ""] | int,
) -> Float[Array, "B length h d"]:
    return jax.lax.dynamic_update_slice_in_dim(whole, part, cache_index, axis=1)
