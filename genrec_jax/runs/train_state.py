"""The state that a training step changes, as checkpoints store it."""

from typing import NamedTuple

import optax
from jaxtyping import Array, Int

from genrec_jax.models.contract import Params


class TrainState(NamedTuple):
    """All that a phase changes. `step` counts from 0 at the start of the phase."""

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
