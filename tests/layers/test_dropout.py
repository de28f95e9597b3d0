"""Dropout with hashed bits zeroes the right share of elements, without a pattern."""

import jax
import jax.numpy as jnp
import numpy as np

from genrec_jax.layers.dropout import dropout, random_bits

SHAPE = (64, 32, 48)


def test_rate_scale_and_off() -> None:
    x = jnp.ones(SHAPE)
    kept = np.asarray(dropout(x, 0.1, jax.random.key(0)))
    n = kept.size
    share = np.mean(kept == 0.0)
    assert abs(share - 0.1) < 4 * np.sqrt(0.1 * 0.9 / n)
    np.testing.assert_allclose(kept[kept > 0], 1 / 0.9, rtol=1e-6)
    assert dropout(x, 0.1, None) is x
    assert dropout(x, 0.0, jax.random.key(0)) is x


def test_masks_of_keys_and_neighbours_are_uncorrelated() -> None:
    keys = jax.random.split(jax.random.key(1), 4)
    masks = [(np.asarray(random_bits(key, SHAPE)) < 2**31) - 0.5 for key in keys]
    bound = 4.5 / np.sqrt(masks[0].size)
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert abs(np.mean(one * other) * 4) < bound
        for axis in range(3):  # with the next element along each axis
            assert abs(np.mean(one * np.roll(one, 1, axis)) * 4) < bound
        for axis in range(3):  # the rate of every row
            means = one.mean(axis=tuple(a for a in range(3) if a != axis))
            assert np.abs(means).max() < 0.5 * 5 / np.sqrt(one.size / one.shape[axis])


def test_every_bit_is_fair() -> None:
    bits = np.asarray(random_bits(jax.random.key(2), SHAPE))
    for bit in range(32):
        share = np.mean((bits >> bit) & 1)
        assert abs(share - 0.5) < 4.5 * 0.5 / np.sqrt(bits.size)
