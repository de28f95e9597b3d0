"""The jitted step: what it learns, that it repeats, and the optimizer against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from genrec_jax.data.sequences import UserSequences, pretraining_examples
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.sentences import plan_batches
from genrec_jax.model.bart import BartShape
from genrec_jax.model.genrec import abstract_model, init_params
from genrec_jax.model.inputs import put_on_device
from genrec_jax.training.optimizer import (
    OptimizerSpec,
    decays,
    learning_rate_schedule,
    make_optimizer,
)
from genrec_jax.training.step import make_train_step, start_state, token_loss

STEPS = 40
SPEC = OptimizerSpec(steps=STEPS, learning_rate=3e-3, weight_decay=0.1, warmup=0.1, clip_norm=1.0)


@pytest.fixture(scope="module")
def shape(catalogue: Catalogue) -> BartShape:
    return BartShape(
        vocab_size=catalogue.vocabulary.size,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_heads=2,
        decoder_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_positions=80,
        init_std=0.1,
    )


def test_a_phase_learns_repeats_and_compiles_once_a_shape(
    sequences: UserSequences, catalogue: Catalogue, shape: BartShape
) -> None:
    plan = plan_batches(
        pretraining_examples(sequences), catalogue.table, 80, 16, buckets=2, label="test"
    )
    graph, _ = abstract_model(shape, sequences.n_users, sequences.n_items)
    optimizer = make_optimizer(SPEC)
    step = make_train_step(
        graph, put_on_device(catalogue.table), optimizer, "random_item", 0.5, seed=0
    )

    def run() -> tuple[list[float], object]:
        state = start_state(init_params(shape, sequences.n_users, sequences.n_items, 0), optimizer)
        losses = []
        for bucket, batch in plan.training_batches(seed=0, start=0, stop=STEPS):
            state, sums = step(state, batch, bucket.n_tokens)
            losses.append(float(sums.loss_sum / sums.tokens))
        return losses, state

    losses, state = run()
    again, same = run()
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert losses == again
    jax.tree.map(np.testing.assert_array_equal, state.params, same.params)
    assert step._cache_size() == len(plan.buckets)  # one compilation a bucket shape


def test_loss_is_torchs_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 11)).astype(np.float32)
    labels = rng.integers(0, 11, (3, 4))
    weights = rng.random((3, 4)) < 0.7
    found = token_loss(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(weights))
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
        # Norms from 0.3 to 3, so that some steps are clipped and some are not.
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
