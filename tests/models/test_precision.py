"""bfloat16 layers: products are summed in float32 and stay float32 until the next layer's input.

The expected values are computed in float64 from the same bfloat16 numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genrec_jax.layers.blocks import Attention, BlockShape, KeyValue
from genrec_jax.layers.low_pass import LowPass, make_waves

BF16 = 2.0**-8  # the largest relative error of one rounding


def numbers(shape: tuple[int, ...], scale: float = 1.0) -> jax.Array:
    drawn = np.random.default_rng(shape[0]).normal(size=shape) * scale
    return jnp.asarray(drawn, jnp.bfloat16)


def float64(x: jax.Array) -> np.ndarray:
    return np.asarray(x, np.float64)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.fixture
def attention() -> Attention:
    """Attention with two heads of 16 columns, whose scale 1/4 is exact, and an identity output."""
    attention = Attention(BlockShape(32, 2, 32, dtype="bfloat16", init_std=0.5), nnx.Rngs(0))
    attention.out.kernel[...] = jnp.eye(32)
    return attention


def test_attention_scores_are_not_rounded(attention: Attention) -> None:
    """Keys are close to the query, so scores are some hundreds and differ by some units."""
    x = numbers((3, 1, 32), 5.0)
    query = float64(attention.query(x)).reshape(3, 1, 2, 16)
    noise = np.random.default_rng(0).normal(size=(3, 8, 2, 16)) * 0.2
    keys = jnp.asarray(query + noise, jnp.bfloat16)
    memory = KeyValue(keys, numbers((3, 8, 2, 16)))
    scores = np.einsum("bshd,bthd->bhst", query / 4, float64(keys))
    assert scores.max() > 300
    expected = np.einsum("bhst,bthd->bshd", softmax(scores), float64(memory.values))
    found = attention(x, memory, jnp.ones((1, 1, 8), bool))
    # The weights and the result are each rounded once.
    np.testing.assert_allclose(
        float64(found), expected.reshape(3, 1, 32), atol=2 * BF16 * np.abs(expected).max()
    )


def test_attention_adds_up_many_values_in_float32(attention: Attention) -> None:
    """The program requests float32 sums, which a CPU uses for bfloat16 products in any case."""
    x, keys = numbers((2, 1, 32)), numbers((2, 64, 2, 16))
    mask = jnp.ones((1, 1, 64), bool)
    jaxpr = jax.make_jaxpr(lambda x, keys: attention(x, KeyValue(keys, keys), mask))(x, keys)
    products = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    of_heads = [eqn.outvars[0].aval for eqn in products if eqn.invars[0].aval.ndim == 4]
    assert [out.dtype for out in of_heads] == [jnp.float32] * 2


def test_the_low_pass_filter_is_float32() -> None:
    """A signal of the filter's own frequencies passes waves of 128 positions unchanged."""
    period, width = 128, 16
    waves = make_waves(jnp.arange(period)[None], jnp.ones((1, period), bool), period, 3)
    clean = float64(waves)[0] @ np.random.default_rng(0).normal(size=(5, width))
    x = jnp.asarray(10 * clean, jnp.bfloat16)[None]
    rngs = nnx.Rngs(0)
    norm = nnx.LayerNorm(width, epsilon=1e-5, dtype=jnp.bfloat16, rngs=rngs)
    low_pass = LowPass(norm, width, 0.0)
    low_pass.fast[...] = jnp.full(width, 63.5)  # fast components have weight 64
    basis, signal = float64(waves)[0], float64(x)[0]
    slow = basis @ (basis.T @ signal)
    y = signal + slow + 64 * (signal - slow)
    centred = y - y.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    found = float64(low_pass(x, waves, None))[0]
    np.testing.assert_allclose(found, expected, atol=0.05)
