"""bfloat16 arithmetic: products are summed in float32 and stay float32 until they are an input.

What is expected is float64 arithmetic on the same bfloat16 numbers.
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
    """Two heads of 16 columns, whose scale of 1/4 is a bfloat16 number; nothing after the heads."""
    attention = Attention(BlockShape(32, 2, 32, dtype="bfloat16", init_std=0.5), nnx.Rngs(0))
    attention.out.kernel[...] = jnp.eye(32)
    return attention


def test_attention_scores_are_not_rounded(attention: Attention) -> None:
    """All keys are nearly the query: scores of some hundreds that differ by some units."""
    x = numbers((3, 1, 32), 5.0)
    query = float64(attention.query(x)).reshape(3, 1, 2, 16)
    noise = np.random.default_rng(0).normal(size=(3, 8, 2, 16)) * 0.2
    keys = jnp.asarray(query + noise, jnp.bfloat16)
    memory = KeyValue(keys, numbers((3, 8, 2, 16)))
    scores = np.einsum("bshd,bthd->bhst", query / 4, float64(keys))
    assert scores.max() > 300
    expected = np.einsum("bhst,bthd->bshd", softmax(scores), float64(memory.values))
    found = attention(x, memory, jnp.ones((1, 1, 8), bool))
    # One rounding of the weights, one of the result.
    np.testing.assert_allclose(
        float64(found), expected.reshape(3, 1, 32), atol=2 * BF16 * np.abs(expected).max()
    )


def test_attention_adds_up_many_values_in_float32(attention: Attention) -> None:
    """What the program asks for: a CPU sums bfloat16 products in float32 without being asked."""
    x, keys = numbers((2, 1, 32)), numbers((2, 64, 2, 16))
    mask = jnp.ones((1, 1, 64), bool)
    jaxpr = jax.make_jaxpr(lambda x, keys: attention(x, KeyValue(keys, keys), mask))(x, keys)
    products = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    of_heads = [eqn.outvars[0].aval for eqn in products if eqn.invars[0].aval.ndim == 4]
    assert [out.dtype for out in of_heads] == [jnp.float32] * 2


def test_the_low_pass_filter_is_float32() -> None:
    """Waves of 128 slots let a signal of their own frequencies through as it is."""
    period, width = 128, 16
    waves = make_waves(jnp.arange(period)[None], jnp.ones((1, period), bool), period, 3)
    clean = float64(waves)[0] @ np.random.default_rng(0).normal(size=(5, width))
    x = jnp.asarray(10 * clean, jnp.bfloat16)[None]
    rngs = nnx.Rngs(0)
    norm = nnx.LayerNorm(width, epsilon=1e-5, dtype=jnp.bfloat16, rngs=rngs)
    low_pass = LowPass(norm, width, 0.0)
    low_pass.fast[...] = jnp.full(width, 63.5)  # what is fast counts 64 times
    basis, signal = float64(waves)[0], float64(x)[0]
    slow = basis @ (basis.T @ signal)
    y = signal + slow + 64 * (signal - slow)
    centred = y - y.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    found = float64(low_pass(x, waves, None))[0]
    np.testing.assert_allclose(found, expected, atol=0.05)
