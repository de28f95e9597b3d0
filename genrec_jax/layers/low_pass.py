"""What is slow in a sequence of vectors, beside what attention finds (`model.low_pass`).

BSARec (Shin et al. 2024): a history is a signal, a slot a sample of it. Of its Fourier components
the F lowest frequencies, the mean among them, are the user's lasting taste, the rest the moment's:

    slow = the part of x in the span of the waves
    LowPass(x) = LayerNorm(x + Dropout(slow + (1/2 + b) (x - slow)))

with b learned, a number a column. The waves have the period of the longest history, and are 0 where
no slot is, as if the history came at the end of zeros. A slot's sum goes over all slots, those
after it too: for one prediction a history, not for one at every position.

Axes: B batch, T slots, D width, W = 2 F - 1 waves.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.layers.dropout import Key, dropout


def make_waves(
    positions: Int[Array, "*#B T"], there: Bool[Array, "B T"], period: int, frequencies: int
) -> Float[Array, "B T W"]:
    """Orthonormal over a whole period.

    Args:
        positions: of the slots in time.
        there: whether a slot is no padding.
        period: of the lowest frequency but 0.
        frequencies: F.
    """
    angles = 2 * jnp.pi / period * positions[..., None] * jnp.arange(1, frequencies)
    mean = jnp.full((*positions.shape, 1), period**-0.5)
    swings = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1) * (2 / period) ** 0.5
    waves = jnp.concatenate([mean, swings], axis=-1)
    return jnp.where(there[..., None], waves, 0.0)


class LowPass(nnx.Module):
    """One vector a slot, of the slots' own vectors."""

    def __init__(self, norm: nnx.LayerNorm, width: int, rate: float):
        self.norm = norm
        self.rate = rate
        self.fast = nnx.Param(jnp.zeros(width))

    def __call__(
        self, x: Float[Array, "B T D"], waves: Float[Array, "B T W"], key: Key
    ) -> Float[Array, "B T D"]:
        # In float32: waves that are rounded to bfloat16 are not orthonormal any more, and the
        # coefficients are sums over all slots. The few products cost next to nothing.
        signal = x.astype(jnp.float32)
        slow = jnp.einsum("btw,bwd->btd", waves, jnp.einsum("btw,btd->bwd", waves, signal))
        kept = slow + (0.5 + self.fast[...]) * (signal - slow)
        return self.norm(signal + dropout(kept, self.rate, key))
