"""Options that save memory: accumulation, rematerialisation, a bfloat16 first moment."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_training import SPEC, Small

from genrec_jax.models.contract import abstract_model, merge
from genrec_jax.runs.train_state import TrainState
from genrec_jax.training.optimizer import make_optimizer
from genrec_jax.training.step import root_key


def assert_close(one: TrainState, other: TrainState, bound: float) -> None:
    """Check that parameters agree within a relative distance, except the biases of keys.

    Their gradient is zero mathematically. Adam divides by its size, so rounding noise moves them.
    """
    leaves = jax.tree_util.tree_leaves_with_path(one.params)
    for (path, found), expected in zip(leaves, jax.tree.leaves(other.params), strict=True):
        names = [step.key for step in path]
        if names[-2:] == ["key", "bias"]:
            continue
        gap = np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-30)
        assert gap < bound, (names, gap)


def first_step(small: Small, **changes: Any) -> tuple[TrainState, Any]:
    """Run one step without warmup on a batch that is not full."""
    spec = dataclasses.replace(SPEC, warmup=0.0)
    step = jax.jit(small.step(spec, **changes), static_argnums=4)
    dispatch = next(dispatch for dispatch in small.dispatches(100) if (dispatch.rows < 0).any())
    batch = small.plan.pad(dispatch.bucket, dispatch.rows[0][dispatch.rows[0] >= 0])
    root = root_key(0, "random_item")
    return step(small.start(spec), small.tables, batch, root, dispatch.bucket.n_tokens)


def test_an_accumulated_batch_equals_the_whole_batch(still: Small) -> None:
    """Parts differ in their tokens and the last one has padding rows, so sums must be used."""
    whole, expected = first_step(still)
    state, metrics = first_step(still, accumulate=4)
    for name in ("tokens", "exact", "targets"):
        assert int(getattr(metrics, name)) == int(getattr(expected, name))
    np.testing.assert_allclose(metrics.loss_sum, expected.loss_sum, rtol=1e-6)
    np.testing.assert_allclose(metrics.gradient_norm, expected.gradient_norm, rtol=1e-5)
    assert_close(state, whole, 1e-5)


@pytest.mark.slow
def test_rematerialisation_changes_nothing_with_dropout_on(small: Small) -> None:
    kept, expected = first_step(small)
    state, metrics = first_step(small, rematerialise=True)
    np.testing.assert_allclose(metrics.loss_sum, expected.loss_sum, rtol=1e-6)
    np.testing.assert_allclose(metrics.gradient_norm, expected.gradient_norm, rtol=1e-5)
    assert_close(state, kept, 1e-5)


def test_rematerialisation_keeps_less_for_the_backward_pass(small: Small) -> None:
    """Compare the bytes that the forward pass stores for the backward pass, with 4 + 4 layers."""
    shape = dataclasses.replace(small.shape, encoder_layers=4, decoder_layers=4)
    sizes = (small.catalogue.table.n_users, small.catalogue.table.n_items)
    graph, like = abstract_model(shape, *sizes)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)
    dispatch = small.dispatches(1)[0]
    batch = jax.tree.map(jnp.asarray, small.plan.pad(dispatch.bucket, dispatch.rows[0]))
    batch = batch._replace(targets=jnp.zeros(len(batch.users), jnp.int32))
    model = merge(graph, params)
    inputs = model.make_inputs(small.tables, batch, "next_item", dispatch.bucket.n_tokens)

    def kept(rematerialise: bool) -> int:
        def run(params: Any) -> jax.Array:
            model = merge(graph, params)
            return model.loss(small.tables, inputs, jax.random.key(0), rematerialise).loss

        _, backward = jax.eval_shape(lambda p: jax.vjp(run, p), params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))

    assert kept(True) < 0.5 * kept(False)


def test_a_first_moment_in_bfloat16() -> None:
    """A bfloat16 first moment takes half the bytes; updates differ by a factor of about 2^-8."""
    params = {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(64)}
    updated = []
    for dtype in ("float32", "bfloat16"):
        optimizer = make_optimizer(dataclasses.replace(SPEC, first_moment=dtype, warmup=0.0))
        state = optimizer.init(params)
        rng = np.random.default_rng(0)
        moved = params
        for _ in range(5):
            grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)  # noqa: B023
            updates, state = optimizer.update(grads, state, moved)
            moved = optax.apply_updates(moved, updates)
        adam = next(part for part in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(part))
        assert {leaf.dtype for leaf in jax.tree.leaves(adam.mu)} == {jnp.dtype(dtype)}
        assert {leaf.dtype for leaf in jax.tree.leaves(adam.nu)} == {jnp.dtype("float32")}
        updated.append(jax.tree.map(jnp.subtract, moved, params))
    exact, ours = (jax.tree.leaves(one) for one in updated)
    for one, other in zip(ours, exact, strict=True):
        assert 0 < np.linalg.norm(one - other) / np.linalg.norm(other) < 2**-7


def is_adam(part: Any) -> bool:
    return isinstance(part, optax.ScaleByAdamState)


def test_an_update_allocates_no_copy_of_the_parameters() -> None:
    """Clipping and AdamW update in place; all intermediate arrays are small."""
    params = {"kernel": jnp.ones((512, 512)), "bias": jnp.ones(512)}
    optimizer = make_optimizer(SPEC)

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(update, donate_argnums=(0, 1))
    memory = jitted.lower(params, optimizer.init(params), params).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.01 * params["kernel"].nbytes
