"""The whole training step as one jitted function, the same for both phases.

Integers go in; masking, token look-up, encoder and decoder input, forward, backward, clipping,
AdamW and its schedule happen inside. The state is donated: its memory is used again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from genrec_jax.data.batches import Batch
from genrec_jax.model.genrec import Params, merge
from genrec_jax.model.inputs import DeviceTable, decoder_input, encoder_input
from genrec_jax.training.cloze import Objective, drop_users, mask_items


class TrainState(NamedTuple):
    """All that a phase changes. `step` counts from 0 at the start of the phase."""

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState


class StepMetrics(NamedTuple):
    """Sums, so that they add up over batches, devices and hosts."""

    loss_sum: Float[Array, ""]  # nats, over the weighted decoder tokens
    tokens: Int[Array, ""]  # weighted decoder tokens
    exact: Int[Array, ""]  # targets whose every token had the highest logit
    targets: Int[Array, ""]
    gradient_norm: Float[Array, ""]


Step = Callable[[TrainState, Batch, int], tuple[TrainState, StepMetrics]]


def start_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def token_loss(
    logits: Float[Array, "B S V"], labels: Int[Array, "B S"], weights: Bool[Array, "B S"]
) -> Float[Array, ""]:
    """Sum of the cross-entropy over the weighted tokens, in nats."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(jnp.where(weights, losses, 0.0))


def make_train_step(
    graph: Any,
    table: DeviceTable,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    user_dropout: float,
    seed: int,
) -> Step:
    """`step(state, batch, n_tokens)`, jitted; each (H, n_tokens) compiles once.

    The random numbers of a step follow from (seed, objective, state.step) alone.
    """
    root = jax.random.fold_in(jax.random.key(seed), 0 if objective == "random_item" else 1)

    def loss_of(params: Params, batch: Batch, n_tokens: int, step: Int[Array, ""]):
        mask_key, user_key, dropout_key = jax.random.split(jax.random.fold_in(root, step), 3)
        items, targets = mask_items(
            objective, mask_key, batch.histories, batch.targets, table.mask_row
        )
        users = drop_users(user_key, batch.users, user_dropout)
        sentence = encoder_input(table, users, items, n_tokens)
        answer = decoder_input(table, targets)
        model = merge(graph, params)
        logits = model(sentence, answer.tokens, dropout_key)
        loss_sum = token_loss(logits, answer.labels, answer.weights)
        tokens = jnp.sum(answer.weights)
        right = (jnp.argmax(logits, axis=-1) == answer.labels) | ~answer.weights
        known = targets >= 0
        exact = jnp.sum(jnp.all(right, axis=1) & known)
        return loss_sum / jnp.maximum(tokens, 1), (loss_sum, tokens, exact, jnp.sum(known))

    @partial(jax.jit, static_argnums=2, donate_argnums=0)
    def train_step(
        state: TrainState, batch: Batch, n_tokens: int
    ) -> tuple[TrainState, StepMetrics]:
        gradient = jax.grad(loss_of, has_aux=True)
        grads, sums = gradient(state.params, batch, n_tokens, state.step)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        metrics = StepMetrics(*sums, gradient_norm=optax.tree.norm(grads))
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step
