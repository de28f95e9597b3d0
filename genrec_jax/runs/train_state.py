"""The state that a training step changes, as checkpoints store it."""

from typing import NamedTuple

import optax
from jaxtyping import Array, Int

from genrec_jax.models.contract import Params


class TrainState(NamedTuple):
    """The step, the parameters and the optimizer state, which each training step replaces."""

    step: Int[Array, ""]  # training steps since the start of the phase
    params: Params
    opt_state: optax.OptState
