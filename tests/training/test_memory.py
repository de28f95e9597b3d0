"""What saves memory changes no result: accumulation, rematerialisation, a smaller first moment."""

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
    """But for the keys' biases: their gradient is zero by mathematics, and Adam, which divides by
    its size, makes steps of noise of it."""
    leaves = jax.tree_util.tree_leaves_with_path(one.params)
    for (path, found), expected in zip(leaves, jax.tree.leaves(other.params), strict=True):
        names = [step.key for step in path]
        if names[-2:] == ["key", "bias"]:
            continue
        gap = np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-30)
        assert gap < bound, (names, gap)


def first_step(small: Small, **changes: Any) -> tuple[TrainState, Any]:
    """With a learning rate from the start, on a batch that is not full."""
    spec = dataclasses.replace(SPEC, warmup=0.0)
    step = jax.jit(small.step(spec, **changes), static_argnums=4)
    call = next(call for call in small.calls(100) if (call.rows < 0).any())
    batch = small.plan.pad(call.bucket, call.rows[0][call.rows[0] >= 0])
    root = root_key(0, "random_item")
    return step(small.start(spec), small.tables, batch, root, call.bucket.n_tokens)


def test_a_batch_in_parts_is_the_batch(still: Small) -> None:
    """Parts differ in their tokens, and the last has rows that only fill it: sums, not means."""
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
    """Bytes that the forward pass hands on, 4 + 4 layers."""
    shape = dataclasses.replace(small.shape, encoder_layers=4, decoder_layers=4)
    sizes = (small.catalogue.table.n_users, small.catalogue.table.n_items)
    graph, like = abstract_model(shape, *sizes)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)
    call = small.calls(1)[0]
    batch = jax.tree.map(jnp.asarray, small.plan.pad(call.bucket, call.rows[0]))
    batch = batch._replace(targets=jnp.zeros(len(batch.users), jnp.int32))
    model = merge(graph, params)
    inputs = model.make_inputs(small.tables, batch, "next_item", call.bucket.n_tokens)

    def kept(rematerialise: bool) -> int:
        def run(params: Any) -> jax.Array:
            model = merge(graph, params)
            return model.loss(small.tables, inputs, jax.random.key(0), rematerialise).loss

        _, backward = jax.eval_shape(lambda p: jax.vjp(run, p), params)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))

    assert kept(True) < 0.5 * kept(False)


def test_a_first_moment_in_bfloat16() -> None:
    """Half the bytes, and updates that are a share of 2^-8 away."""
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


def test_an_update_makes_no_second_copy_of_the_parameters() -> None:
    """Clipping and AdamW write where they read; all else on the way is small."""
    params = {"kernel": jnp.ones((512, 512)), "bias": jnp.ones(512)}
    optimizer = make_optimizer(SPEC)

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(update, donate_argnums=(0, 1))
    memory = jitted.lower(params, optimizer.init(params), params).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.01 * params["kernel"].nbytes
