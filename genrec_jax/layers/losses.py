"""Cross-entropy per prediction in nats, and whether the target had the highest score.

Axes: B users, G targets of a user, D width, V classes, N items.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


class Losses(NamedTuple):
    """The loss of each prediction, and whether the target had the highest score."""

    loss: Float[Array, "*axes"]  # nats; 0 where the weight is False
    correct: Bool[Array, "*axes"]  # True where the weight is False


def cross_entropy(
    logits: Float[Array, "*axes V"], labels: Int[Array, "*axes"], weights: Bool[Array, "*axes"]
) -> Losses:
    """Return the cross-entropy of labels; predictions whose weight is False do not count."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return Losses(
        loss=jnp.where(weights, loss, 0.0),
        correct=(jnp.argmax(logits, axis=-1) == labels) | ~weights,
    )


def item_cross_entropy(
    logits_of: Callable[[jax.Array], jax.Array],
    states: Float[Array, "B G D"],
    items: Int[Array, "B G"],
) -> Losses:
    """Return the cross-entropy of items over the whole catalogue, one target per user at a time.

    Only the logits of one target per user are in memory. If there are several targets, the backward
    pass recomputes the logits.

    Args:
        logits_of: computes the logits of every item, [B, D] → [B, N].
        states: the vectors that the targets are predicted from.
        items: the targets, -1 for none.
    """

    def of_target(
        state_and_item: tuple[Float[Array, "B D"], Int[Array, " B"]],
    ) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
        state, item = state_and_item
        logits = logits_of(state)
        target = jnp.take_along_axis(logits, jnp.maximum(item, 0)[:, None], axis=1)[:, 0]
        loss = jax.nn.logsumexp(logits, axis=1) - target
        return jnp.where(item >= 0, loss, 0.0), (target >= jnp.max(logits, axis=1)) | (item < 0)

    if items.shape[1] > 1:
        of_target = jax.checkpoint(of_target)
    loss, correct = jax.lax.map(of_target, (jnp.swapaxes(states, 0, 1), items.T))
    return Losses(loss.T, correct.T)
