"""Cross-entropy per prediction, in nats, and whether the target had the highest score.

Axes: B users, G targets of a user, D width, V classes, N items.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


class Losses(NamedTuple):
    """The loss of each prediction, 0 where it does not count, and whether it was correct."""

    loss: Float[Array, "*axes"]
    correct: Bool[Array, "*axes"]  # True where the prediction does not count


def cross_entropy(
    logits: Float[Array, "*axes V"], labels: Int[Array, "*axes"], weights: Bool[Array, "*axes"]
) -> Losses:
    """The cross-entropy of labels under logits; predictions whose weight is False do not count."""
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
    """The cross-entropy of items over the whole catalogue, one target of all users at a time.

    The scores of all items are held for one target of each user, and where there are several they
    are computed again in the backward pass.

    Args:
        logits_of: [B, D] → the logits of every item, [B, N].
        states: that the targets are predicted from.
        items: the targets, -1 for none.
    """

    def of_target(
        one: tuple[Float[Array, "B D"], Int[Array, " B"]],
    ) -> tuple[Float[Array, " B"], Bool[Array, " B"]]:
        state, item = one
        logits = logits_of(state)
        target = jnp.take_along_axis(logits, jnp.maximum(item, 0)[:, None], axis=1)[:, 0]
        loss = jax.nn.logsumexp(logits, axis=1) - target
        return jnp.where(item >= 0, loss, 0.0), (target >= jnp.max(logits, axis=1)) | (item < 0)

    if items.shape[1] > 1:
        of_target = jax.checkpoint(of_target)
    loss, correct = jax.lax.map(of_target, (jnp.swapaxes(states, 0, 1), items.T))
    return Losses(loss.T, correct.T)
