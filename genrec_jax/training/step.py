"""The whole training step as one function, for pretraining and finetuning.

A batch of integers goes in. The model's `make_inputs` (masking, token look-up), forward, backward,
clipping, AdamW and its schedule happen inside. `make_step` returns the function; `make_train_step`
jits it for batches from the host, multi_step.py for a dataset that is on the device. Whatever
depends on the seed is an argument, so that the runs of a sweep share their compiled programs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt32

from genrec_jax.core.devices import Devices, constrain_rows
from genrec_jax.core.jax_settings import KEY_IMPL, random_key
from genrec_jax.data.batches import Batch
from genrec_jax.layers.dropout import Key
from genrec_jax.models.contract import InputKeys, Inputs, Objective, Params, merge
from genrec_jax.models.tables import Tables
from genrec_jax.runs.train_state import TrainState


class StepMetrics(NamedTuple):
    """Metrics of a step as sums that add up over batches, devices and hosts; [n] for n steps."""

    loss_sum: Float[Array, "*n"]  # sum of the loss over `tokens`, in nats
    tokens: Int[Array, "*n"]  # predictions with a weight: decoder tokens, path steps, or items
    exact: Int[Array, "*n"]  # targets whose predictions were all correct
    targets: Int[Array, "*n"]  # targets with a weight
    gradient_norm: Float[Array, "*n"]

    @classmethod
    def zeros(cls, n: int) -> "StepMetrics":
        """Return zeros for n steps."""
        ints = jnp.zeros(n, jnp.int32)
        return cls(jnp.zeros(n), ints, ints, ints, jnp.zeros(n))


class Sums(NamedTuple):
    """The sums that the forward pass returns beside the gradient."""

    loss_sum: Float[Array, ""]
    exact: Int[Array, ""]


Step = Callable[[TrainState, Tables, Batch, jax.Array, int], tuple[TrainState, StepMetrics]]
# (params, inputs, key) → the gradient of the loss with respect to the params, and the sums
Gradient = Callable[..., tuple[Params, Sums]]


def start_state(
    params: Params, optimizer: optax.GradientTransformation, devices: Devices | None = None
) -> TrainState:
    """Return the state at step 0, with the optimizer's state placed like the parameters."""
    if devices is None:
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    shardings = devices.placement(jax.eval_shape(optimizer.init, params))
    opt_state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    return TrainState(devices.replicate(np.zeros((), np.int32)), params, opt_state)


def root_key(seed: int, objective: Objective) -> UInt32[Array, "2"]:
    """Return the root of all random numbers of a phase, as key bits that any device can hold."""
    key = jax.random.fold_in(random_key(seed), 0 if objective == "random_item" else 1)
    return jax.random.key_data(key)


def make_step(
    graph: Any,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    accumulate: int = 1,
    rematerialise: bool = False,
) -> Step:
    """Return `step(state, tables, batch, root, length)`, to be jitted.

    The random numbers of a step depend only on (root, state.step).

    Args:
        graph: the model's graph definition.
        optimizer: the optimizer, from `make_optimizer`.
        objective: the objective of the phase.
        accumulate: the number of parts that a batch is computed in, one after the other; divides
            the batch size. Masked items and dropped users do not depend on it; dropout does.
        rematerialise: whether to keep only the layers' inputs for the backward pass and recompute
            their activations.
    """

    def step(
        state: TrainState, tables: Tables, batch: Batch, root: jax.Array, length: int
    ) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(root, impl=KEY_IMPL), state.step)
        mask_key, user_key, dropout_key = jax.random.split(key, 3)
        keys = InputKeys(mask_key, user_key)
        model = merge(graph, state.params)
        inputs: Inputs = model.make_inputs(tables, batch, objective, length, keys)
        predictions = jnp.sum(inputs.weights)

        def loss_of(params: Params, inputs: Inputs, key: Key) -> tuple[jax.Array, Sums]:
            terms = merge(graph, params).loss(tables, inputs, key, rematerialise)
            terms.check(inputs)
            loss_sum = jnp.sum(terms.loss)
            has_target = jnp.any(inputs.weights, axis=-1)
            exact = jnp.sum(jnp.all(terms.correct, axis=-1) & has_target)
            # Divided by the predictions of the whole batch, so that the parts' gradients add up.
            return loss_sum / jnp.maximum(predictions, 1), Sums(loss_sum, exact)

        gradient: Gradient = jax.grad(loss_of, has_aux=True)
        if accumulate > 1:
            gradient = partial(_accumulated, gradient, accumulate)
        grads, sums = gradient(state.params, inputs, dropout_key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        metrics = StepMetrics(
            loss_sum=sums.loss_sum,
            tokens=predictions,
            exact=sums.exact,
            targets=jnp.sum(jnp.any(inputs.weights, axis=-1)),
            gradient_norm=optax.tree.norm(grads),
        )
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def make_train_step(
    graph: Any,
    tables: Tables,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    seed: int,
) -> Callable[[TrainState, Batch, int], tuple[TrainState, StepMetrics]]:
    """Return the jitted `step(state, batch, length)` for batches from the host.

    The state is donated. The function compiles once for each (H, length).

    Args:
        graph: the model's graph definition.
        tables: the model's tables on the device.
        optimizer: the optimizer, from `make_optimizer`.
        objective: the objective of the phase.
        seed: the run's seed.
    """
    step = make_step(graph, optimizer, objective)
    root = root_key(seed, objective)
    jitted = jax.jit(step, static_argnums=4, donate_argnums=0)
    return lambda state, batch, length: jitted(state, tables, batch, root, length)


def _accumulated(
    gradient: Gradient, parts: int, params: Params, inputs: Inputs, key: jax.Array
) -> tuple[Params, Sums]:
    """Sum the gradient of a batch over its parts, in the memory of one part's forward pass."""
    # Moves only integers between devices, so that each has its share of every part.
    split = jax.tree.map(
        lambda x: constrain_rows(x.reshape(parts, -1, *x.shape[1:]), axis=1), inputs
    )
    keys = jax.random.split(key, parts)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        inputs, part_key = part
        return jax.tree.map(jnp.add, total, gradient(params, inputs, part_key)), None

    like = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], split), keys[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return jax.lax.scan(add, zeros, (split, keys))[0]
