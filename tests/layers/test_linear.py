"""Products of flattened vectors equal products over any axes, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genrec_jax.layers.linear import Linear, l2_normalise, row_products

SHAPES = [(5, 8), (2, 5, 8), (2, 3, 5, 8), (0, 3, 8)]


def vectors(shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_with_rows(shape: tuple[int, ...]) -> None:
    x, table = vectors(shape), vectors((7, 8))
    weights = vectors((*shape[:-1], 7))

    def ours(x: jax.Array, table: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(row_products(x, table)) * weights)

    def plain(x: jax.Array, table: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(jnp.einsum("...d,nd->...n", x, table)) * weights)

    np.testing.assert_allclose(row_products(x, table), jnp.einsum("...d,nd->...n", x, table), 1e-5)
    for found, expected in zip(
        jax.grad(ours, (0, 1))(x, table), jax.grad(plain, (0, 1))(x, table), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_with_rows_of_bfloat16_is_float32() -> None:
    x, table = vectors((2, 3, 8)).astype(jnp.bfloat16), vectors((7, 8)).astype(jnp.bfloat16)
    assert row_products(x, table).dtype == jnp.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_equals_nnx_linear(shape: tuple[int, ...]) -> None:
    ours, theirs = (kind(8, 6, rngs=nnx.Rngs(1)) for kind in (Linear, nnx.Linear))
    x = vectors(shape)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_the_gradient_of_the_table_is_one_product_of_matrices() -> None:
    """No product of the backward pass has operands of more than two axes."""
    layer = Linear(8, 6, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)

    def loss(state: nnx.State, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(nnx.merge(graph, state)(x)))

    jaxpr = jax.make_jaxpr(jax.grad(loss))(state, vectors((2, 3, 8)))
    dots = [eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert dots
    for eqn in dots:
        assert all(variable.aval.ndim == 2 for variable in eqn.invars)


def test_l2_normalise() -> None:
    x = vectors((3, 5, 8)).at[0, 0].set(0.0)
    found = np.asarray(l2_normalise(x))
    expected = np.asarray(x) / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: jnp.sum(jnp.sin(l2_normalise(x))))(x)).all()
