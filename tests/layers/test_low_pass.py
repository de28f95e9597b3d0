"""The low-pass filter, compared with NumPy's Fourier transform of the history after zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genrec_jax.layers.blocks import BlockShape
from genrec_jax.layers.encoder import Encoder, FilterShape
from genrec_jax.layers.low_pass import LowPass, make_waves

PERIOD, WIDTH = 12, 4


@pytest.mark.parametrize("frequencies", [1, 3, 6])
@pytest.mark.parametrize("length", [PERIOD, 5, 1])
def test_the_filter_passes_the_lowest_frequencies(length: int, frequencies: int) -> None:
    rng = np.random.default_rng(0)
    signal = np.zeros((PERIOD, WIDTH), np.float32)
    signal[PERIOD - length :] = rng.normal(size=(length, WIDTH))
    spectrum = np.fft.rfft(signal, axis=0)
    spectrum[frequencies:] = 0
    slow = np.fft.irfft(spectrum, PERIOD, axis=0)[PERIOD - length :]
    x = signal[PERIOD - length :]

    n_positions = 8 if length < 8 else PERIOD  # with padding at the end
    padded = jnp.pad(jnp.asarray(x)[None], ((0, 0), (0, n_positions - length), (0, 0)))
    positions = jnp.maximum(length - 1 - jnp.arange(n_positions), 0)[None]
    present = jnp.arange(n_positions)[None] < length
    waves = make_waves(positions, present, PERIOD, frequencies)
    norm = nnx.LayerNorm(WIDTH, epsilon=1e-5, rngs=nnx.Rngs(0))
    filtered = LowPass(norm, WIDTH, 0.5)
    filtered.fast[...] = jnp.array([-0.5, 0.5, 0.0, 1.0])
    found = filtered(padded, waves, None)[0, :length]

    y = x + slow + np.array([0.0, 1.0, 0.5, 1.5]) * (x - slow)
    centred = y - y.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_an_encoder_with_a_filter() -> None:
    """The filter changes the output, ignores padding, and uses later positions."""
    shape = BlockShape(width=8, heads=2, ffn_dim=16, init_std=0.5)
    plain = Encoder(shape, 2, PERIOD, nnx.Rngs(0))
    encoder = Encoder(shape, 2, PERIOD, nnx.Rngs(0), low_pass=FilterShape(0.7, 3))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 6, 8)), jnp.float32)
    is_item = jnp.arange(6) < jnp.array([[6], [4]])
    attention_mask = is_item[:, None] & (jnp.arange(6) <= jnp.arange(6)[:, None])
    positions = jnp.maximum(is_item.sum(1, keepdims=True) - 1 - jnp.arange(6), 0)

    @jax.jit
    def encode(x: jax.Array) -> jax.Array:
        return encoder(x, attention_mask, None, positions=positions)

    found = encode(x)
    other = encode(jnp.where(is_item[..., None], x, 9.0))
    np.testing.assert_allclose(found[is_item], other[is_item], atol=1e-6)
    assert not np.allclose(
        found[is_item], plain(x, attention_mask, None, positions=positions)[is_item]
    )
    assert not hasattr(plain.layers[0], "low_pass")
    rematerialised = encoder(x, attention_mask, None, rematerialise=True, positions=positions)
    np.testing.assert_allclose(found, rematerialised, atol=1e-5)
    changed = encode(x.at[:, 3].multiply(-1.0))
    assert not np.allclose(found[:, 1], changed[:, 1])  # a later item changes the output
