"""AdamW with warmup, linear decay and clipping, as PyTorch and `transformers` compute them.

The update of a parameter reads and writes its value and two moments and reads its gradient: at
least 28 bytes, whatever the batch. `tests/training/test_memory.py` checks that XLA allocates no
intermediate array as large as the parameters.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from genrec_jax.models.contract import Params

TORCH_EPSILON = 1e-6  # of torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class OptimizerSpec:
    """The optimizer of one phase."""

    steps: int  # of the phase
    learning_rate: float  # after the warmup
    weight_decay: float
    warmup: float  # share of the steps; 0.05 in section 7.1 of the paper
    clip_norm: float  # largest global norm of the gradient
    first_moment: str = "float32"  # dtype of the mean of gradients


def learning_rate_schedule(spec: OptimizerSpec) -> optax.Schedule:
    """Return the schedule: linear warmup from 0, then linear decay to 0 at the last step."""
    warmup_steps = round(spec.warmup * spec.steps)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, spec.learning_rate, warmup_steps),
            optax.linear_schedule(spec.learning_rate, 0.0, spec.steps - warmup_steps),
        ],
        [warmup_steps],
    )


def decays(params: Params) -> Params:
    """Return a tree of bools: True for matrices and tables, False for biases and norms.

    Weight decay applies to the parameters that are True.
    """
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scale the gradient down to the global norm `limit` if its norm is larger.

    The version in optax divides every entry by the norm. XLA does not repeat a division inside a
    fusion, so it writes out the clipped gradient, 4 bytes per parameter, and reads it again. XLA
    does repeat the multiplication used here.

    Args:
        limit: the largest global norm of a clipped gradient.
    """

    def clip(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        factor = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + TORCH_EPSILON))
        return jax.tree.map(lambda leaf: leaf * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), clip)


def make_optimizer(spec: OptimizerSpec) -> optax.GradientTransformation:
    """Return AdamW after clipping, as torch.optim.AdamW and clip_grad_norm_ compute them."""
    return optax.chain(
        clip_by_global_norm(spec.clip_norm),
        optax.adamw(
            learning_rate_schedule(spec),
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            weight_decay=spec.weight_decay,
            mask=decays,
            mu_dtype=spec.first_moment,
        ),
    )
