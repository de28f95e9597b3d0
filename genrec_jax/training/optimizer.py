"""AdamW with warmup, linear decay and clipping, as PyTorch and `transformers` compute them.

The update of a parameter reads and writes its value and two moments and reads its gradient: 28
bytes at least, whatever the batch. `tests/training/test_memory.py` holds XLA to making no
array as large as the parameters on the way.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from genrec_jax.models.contract import Params

TORCH_EPSILON = 1e-6  # of torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class OptimizerSpec:
    """One phase's optimizer; `steps` is the length of the phase."""

    steps: int
    learning_rate: float
    weight_decay: float
    warmup: float  # share of the steps, section 7.1 of the paper: 0.05
    clip_norm: float
    first_moment: str = "float32"  # the dtype it is kept in


def learning_rate_schedule(spec: OptimizerSpec) -> optax.Schedule:
    """From 0 up over the first `warmup` share of the steps, then down to 0 at the end."""
    warmup_steps = round(spec.warmup * spec.steps)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, spec.learning_rate, warmup_steps),
            optax.linear_schedule(spec.learning_rate, 0.0, spec.steps - warmup_steps),
        ],
        [warmup_steps],
    )


def decays(params: Params) -> Params:
    """True for what weight decay touches: matrices and tables, not biases and norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scale the gradient down to the norm `limit` where it is longer.

    optax's own divides every entry by the norm. XLA repeats no division inside a fusion, so that it
    writes the clipped gradient out, 4 bytes a parameter, and reads it again; a product it repeats.
    """

    def clip(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        factor = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + TORCH_EPSILON))
        return jax.tree.map(lambda leaf: leaf * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), clip)


def make_optimizer(spec: OptimizerSpec) -> optax.GradientTransformation:
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
