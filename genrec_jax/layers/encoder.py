"""A stack of encoder layers: embedded tokens or items → one vector each.

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

    share: float  # of the filter in place of attention
    frequencies: int  # that it lets through


class Encoder(nnx.Module):
    """Positions, then the layers."""

    def __init__(
        self,
        shape: BlockShape,
        layers: int,
        positions: int,
        rngs: nnx.Rngs,
        offset: int = 0,
        low_pass: FilterShape | None = None,
    ):
        """See `Embedding` for `offset`; without `low_pass` there is attention alone."""
        share = low_pass.share if low_pass else 0.0
        self.embedding = Embedding(shape, positions, offset, rngs)
        self.layers = nnx.List([EncoderLayer(shape, rngs, share) for _ in range(layers)])
        self.period = positions
        self.low_pass = low_pass

    def __call__(
        self,
        x: Float[Array, "B T D"],
        look: Bool[Array, "B #T T"],
        key: Key,
        rematerialise: bool = False,
        positions: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Encode embedded tokens or items.

        Args:
            x: what the positions are added to.
            look: True where a position may look, [B, 1, T] where that is the same for all.
            key: for dropout.
            rematerialise: the backward pass computes the layers' inner values again: less memory, a
                third more arithmetic.
            positions: 0, 1, 2, … if not given.
        """
        if positions is None:
            positions = jnp.arange(x.shape[1])
        keys = split(key, 1 + len(self.layers))
        x = self.embedding(x, positions, keys[0])
        waves = None
        if self.low_pass is not None:
            there = jnp.any(look, axis=1)
            waves = make_waves(positions, there, self.period, self.low_pass.frequencies)
        for layer, layer_key in zip(self.layers, keys[1:], strict=True):
            run = jax.checkpoint(layer) if rematerialise else layer
            x = run(x, look, layer_key, waves)
        return x
