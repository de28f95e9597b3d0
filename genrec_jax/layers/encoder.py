"""A stack of encoder layers, which returns a vector for each embedded token or item.

Axes: B batch, T positions, D width.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.layers.blocks import BlockShape, Embedding, EncoderLayer
from genrec_jax.layers.dropout import Key, split
from genrec_jax.layers.low_pass import make_waves


@dataclass(frozen=True)
class FilterShape:
    """The low-pass filter beside attention (layers/low_pass.py)."""

    share: float  # weight of the filter's output; that of attention is 1 - share
    frequencies: int  # number of lowest frequencies that pass, the constant included


class Encoder(nnx.Module):
    """Position embeddings and encoder layers."""

    def __init__(
        self,
        shape: BlockShape,
        layers: int,
        positions: int,
        rngs: nnx.Rngs,
        offset: int = 0,
        low_pass: FilterShape | None = None,
    ):
        """Make the encoder.

        Args:
            shape: sizes and rates of the layers.
            layers: the number of layers.
            positions: the number of positions.
            rngs: random streams for the initialisation.
            offset: the row of position 0 in the position table.
            low_pass: the low-pass filter of each layer; None for self-attention only.
        """
        share = low_pass.share if low_pass else 0.0
        self.embedding = Embedding(shape, positions, offset, rngs)
        self.layers = nnx.List([EncoderLayer(shape, rngs, share) for _ in range(layers)])
        self.period = positions
        self.low_pass = low_pass

    def __call__(
        self,
        x: Float[Array, "B T D"],
        attention_mask: Bool[Array, "B #T T"],
        key: Key,
        rematerialise: bool = False,
        positions: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Encode embedded tokens or items.

        Args:
            x: the embeddings, without position embeddings.
            attention_mask: True where a position may attend to another; [B, 1, T] if that is the
                same for all positions.
            key: the dropout key; None turns dropout off.
            rematerialise: whether the backward pass recomputes the layers' activations, which takes
                less memory and a third more operations.
            positions: the position of each vector; 0, 1, 2, … if None.
        """
        if positions is None:
            positions = jnp.arange(x.shape[1])
        keys = split(key, 1 + len(self.layers))
        x = self.embedding(x, positions, keys[0])
        waves = None
        if self.low_pass is not None:
            present = jnp.any(attention_mask, axis=1)
            waves = make_waves(positions, present, self.period, self.low_pass.frequencies)
        for layer, layer_key in zip(self.layers, keys[1:], strict=True):
            run = jax.checkpoint(layer) if rematerialise else layer
            x = run(x, attention_mask, layer_key, waves)
        return x
