"""A low-pass filter over a sequence of vectors, beside attention (`model.low_pass`).

In BSARec (Shin et al. 2024) a history is a signal with one sample per position. The Fourier
components of its F lowest frequencies, the mean included, represent the user's long-term interests,
and the other components short-term interests:

    slow = the projection of x onto the waves
    LowPass(x) = LayerNorm(x + Dropout(slow + (1/2 + b) (x - slow)))

with a learned weight b per column. The waves have the period of the longest history and are 0 at
padding, as if the history followed a sequence of zeros. The filter uses all positions, later ones
too, so it suits one prediction per history and not one at every position.

Axes: B batch, T positions, D width, W = 2 F - 1 waves.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.layers.dropout import Key, dropout


def make_waves(
    positions: Int[Array, "*#B T"], present: Bool[Array, "B T"], period: int, frequencies: int
) -> Float[Array, "B T W"]:
    """Return waves that are orthonormal over a whole period.

    Args:
        positions: the time of each sample, in positions.
        present: True at items, False at padding.
        period: the period of the lowest frequency above 0, in positions.
        frequencies: F, the number of frequencies.
    """
    angles = 2 * jnp.pi / period * positions[..., None] * jnp.arange(1, frequencies)
    constant = jnp.full((*positions.shape, 1), period**-0.5)
    periodic = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1) * (2 / period) ** 0.5
    waves = jnp.concatenate([constant, periodic], axis=-1)
    return jnp.where(present[..., None], waves, 0.0)


class LowPass(nnx.Module):
    """The low-pass filter of one encoder layer."""

    def __init__(self, norm: nnx.LayerNorm, width: int, rate: float):
        """Make a filter with the layer norm, the width D and the dropout rate of its layer."""
        self.norm = norm
        self.rate = rate
        self.fast = nnx.Param(jnp.zeros(width))

    def __call__(
        self, x: Float[Array, "B T D"], waves: Float[Array, "B T W"], key: Key
    ) -> Float[Array, "B T D"]:
        # In float32: waves rounded to bfloat16 are not orthonormal, and the coefficients are sums
        # over all positions. These products are cheap.
        signal = x.astype(jnp.float32)
        slow = jnp.einsum("btw,bwd->btd", waves, jnp.einsum("btw,btd->bwd", waves, signal))
        filtered = slow + (0.5 + self.fast[...]) * (signal - slow)
        return self.norm(signal + dropout(filtered, self.rate, key))
