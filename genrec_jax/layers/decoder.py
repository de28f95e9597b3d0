"""A stack of decoder layers that serves training, beams and trees.

The tokens of a row need not be a sequence: each has a position and a row of what it may see.

Axes: B batch, T encoder positions, S decoder tokens, D width, h heads, d width of a head; `length`
is the number of keys that an attention can see.
"""

from typing import NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.layers.blocks import BlockShape, DecoderLayer, Embedding, KeyValue
from genrec_jax.layers.dropout import Key, split


class CrossMemory(NamedTuple):
    """What the decoder sees of the encoder: computed once, however many tokens it decodes."""

    layers: list[KeyValue]  # of each layer's cross-attention, [B, T, h, d]
    look: Bool[Array, "B #S T"]  # where each token may look, False at padding


class Decoder(nnx.Module):
    """Embedded tokens and the encoder's vectors → one vector a token."""

    def __init__(
        self, shape: BlockShape, layers: int, positions: int, rngs: nnx.Rngs, offset: int = 0
    ):
        """See `Embedding` for `offset`."""
        self.embedding = Embedding(shape, positions, offset, rngs)
        self.layers = nnx.List([DecoderLayer(shape, rngs) for _ in range(layers)])

    def memory(self, encoded: Float[Array, "B T D"]) -> list[KeyValue]:
        """The keys and values of each layer's attention to the encoder."""
        return [layer.cross_attention.key_value(encoded) for layer in self.layers]

    def __call__(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, " #S"],
        visible: Bool[Array, "#n #s length"],
        memory: CrossMemory,
        key: Key = None,
        cache: list[KeyValue] | None = None,
        slot: Int[Array, ""] | int = 0,
        rematerialise: bool = False,
        names: int = 1,
    ) -> tuple[Float[Array, "B S D"], list[KeyValue]]:
        """The vectors of S tokens, and the keys and values of all tokens so far.

        Args:
            x: embedded tokens.
            positions: of the tokens in their names.
            visible: which of the `length` keys each token may see, itself among them.
            memory: of the encoder.
            key: for dropout.
            cache: keys and values of earlier tokens, with room for these; None: there are none,
                and length = S.
            slot: the cache index of these tokens' keys and values.
            rematerialise: the backward pass computes the layers' inner values again.
            names: how many names follow each other in a row, all equally long (n = B * names of s
                tokens each). A token sees those of its own name alone.
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
