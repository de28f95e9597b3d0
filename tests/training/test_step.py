"""The training step: it learns, and its loss and updates equal PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from small_training import Small
from transformers import get_linear_schedule_with_warmup

from genrec_jax.layers.losses import cross_entropy
from genrec_jax.training.multi_step import MultiStepTrainer
from genrec_jax.training.optimizer import (
    OptimizerSpec,
    decays,
    learning_rate_schedule,
    make_optimizer,
)

STEPS = 40
SPEC = OptimizerSpec(steps=STEPS, learning_rate=3e-3, weight_decay=0.1, warmup=0.1, clip_norm=1.0)


def test_a_phase_learns(small: Small, trainer: MultiStepTrainer) -> None:
    _, losses = small.train(trainer, 50)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_another_default_prng_changes_nothing(small: Small, trainer: MultiStepTrainer) -> None:
    """`JAX_DEFAULT_PRNG_IMPL=rbg` has keys of four words; training fixes its own type of key."""
    _, expected = small.train(trainer, 3)
    with jax.default_prng_impl("rbg"):
        _, found = small.train(small.trainer(1), 3)
    assert found == expected


def test_loss_is_torchs_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 11)).astype(np.float32)
    labels = rng.integers(0, 11, (3, 4))
    weights = rng.random((3, 4)) < 0.7
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights)).loss.sum()
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits[weights]), torch.tensor(labels[weights]), reduction="sum"
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_updates_are_torchs_adamw_with_warmup_decay_and_clipping() -> None:
    rng = np.random.default_rng(0)
    start = {
        "kernel": rng.normal(size=(4, 3)).astype(np.float32),
        "bias": rng.normal(size=3).astype(np.float32),
    }
    assert decays(start) == {"kernel": True, "bias": False}
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    adamw = torch.optim.AdamW(
        [
            {"params": [theirs["kernel"]], "weight_decay": SPEC.weight_decay},
            {"params": [theirs["bias"]], "weight_decay": 0.0},
        ],
        lr=SPEC.learning_rate,
    )
    schedule = get_linear_schedule_with_warmup(adamw, round(SPEC.warmup * STEPS), STEPS)

    optimizer = make_optimizer(SPEC)
    params = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(params)
    rate = learning_rate_schedule(SPEC)
    for step in range(STEPS):
        np.testing.assert_allclose(rate(step), schedule.get_last_lr()[0], rtol=1e-6)
        # Norms are from 0.3 to 3, so only some of the steps are clipped.
        grads = {
            k: (rng.normal(size=v.shape) * 10 ** rng.uniform(-1, 0)).astype(np.float32)
            for k, v in start.items()
        }
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, grads), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(grads[name])
        torch.nn.utils.clip_grad_norm_(list(theirs.values()), SPEC.clip_norm)
        adamw.step()
        schedule.step()
    for name, parameter in theirs.items():
        np.testing.assert_allclose(params[name], parameter.detach(), rtol=1e-5, atol=1e-7)
