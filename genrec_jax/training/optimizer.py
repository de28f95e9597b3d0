"""AdamW with warmup, linear decay and clipping, as PyTorch and `transformers` compute them."""

from dataclasses import dataclass

import jax
import optax

from genrec_jax.model.genrec import Params


@dataclass(frozen=True)
class OptimizerSpec:
    """One phase's optimizer; `steps` is the length of the phase."""

    steps: int
    learning_rate: float
    weight_decay: float
    warmup: float  # share of the steps, section 7.1 of the paper: 0.05
    clip_norm: float


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


def make_optimizer(spec: OptimizerSpec) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(
            learning_rate_schedule(spec),
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            weight_decay=spec.weight_decay,
            mask=decays,
        ),
    )
