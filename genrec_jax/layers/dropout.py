"""Dropout with cheap random bits.

A dropout mask needs no statistical random generator: it suffices to hash the position of each
element with the key. That is a handful of integer operations, which the compiler fuses into the
mask, and it stores nothing. The hash is `lowbias32`, a 32-bit mixing function found by a search for
low avalanche bias (Wellons, "hash prospector"), applied twice.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

Key = jax.Array | None  # a random key; None turns dropout off


def dropout(x: Float[Array, "..."], rate: float, key: Key) -> Float[Array, "..."]:
    """Zero each element of x with probability `rate`, and scale the others by 1 / (1 - rate)."""
    if key is None or rate == 0.0:
        return x
    kept = random_bits(key, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(kept, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), 0)


def split(key: Key, n: int) -> list[Key]:
    """Split a key into n keys, or return n times None if there is no key."""
    return [None] * n if key is None else list(jax.random.split(key, n))


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Return hashed bits for dropout masks, identical on every device; not for statistics."""
    first, second = jax.random.key_data(key)
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride = stride * shape[axis] % 2**32
    return _lowbias32(_lowbias32(index ^ first) + second)


def _lowbias32(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
