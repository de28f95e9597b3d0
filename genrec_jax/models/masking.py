"""Masking of items (sections 4.2 and 4.3, Figure 2 of the paper) and user dropout.

Pretraining replaces one random item of the training part by the mask; finetuning appends the mask
after the last item. Both predict the item at the mask. Beyond the paper, a causal encoder predicts
the item after the last one, or the next item at every position, without a mask.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from genrec_jax.models.contract import Objective


def mask_random_item(
    key: jax.Array, histories: Int[Array, "B H"], mask_row: int
) -> tuple[Int[Array, "B H"], Int[Array, " B"]]:
    """Replace one uniformly random item of each history by the mask.

    Args:
        key: the random key.
        histories: item rows, -1 for padding at the end.
        mask_row: the row of the mask.

    Returns:
        The masked histories, and the masked items (-1 for an empty history).
    """
    length = jnp.sum(histories >= 0, axis=1)
    chosen = jnp.floor(jax.random.uniform(key, length.shape) * length).astype(jnp.int32)
    # uniform * length may round up to length.
    chosen = jnp.minimum(chosen, jnp.maximum(length - 1, 0))[:, None]
    targets = jnp.take_along_axis(histories, chosen, axis=1)
    is_masked = (jnp.arange(histories.shape[1]) == chosen) & (targets >= 0)
    return jnp.where(is_masked, mask_row, histories), targets[:, 0]


def drop_users(key: jax.Array | None, users: Int[Array, " B"], rate: float) -> Int[Array, " B"]:
    """Replace users by -1 with probability `rate`; without a key, return them unchanged."""
    if key is None or rate == 0.0:
        return users
    return jnp.where(jax.random.bernoulli(key, rate, users.shape), -1, users)


def mask_items(
    objective: Objective,
    key: jax.Array | None,
    histories: Int[Array, "B H"],
    targets: Int[Array, " B"],
    mask_row: int,
) -> tuple[Int[Array, "B H_masked"], Int[Array, "B *n"]]:
    """Insert the mask where an objective needs it.

    Args:
        objective: the objective; `following_item` and `every_item` have no mask.
        key: the random key, which only `random_item` needs.
        histories: item rows, -1 for padding at the end.
        targets: the item after each history.
        mask_row: the row of the mask.

    Returns:
        The histories with the mask, and the targets: [B], or [B, H+1] for `every_item`, which
        predicts the items of the history and the one after it.
    """
    if objective == "random_item":
        assert key is not None
        return mask_random_item(key, histories, mask_row)
    if objective == "every_item":
        return histories, append(histories, targets)
    if objective == "following_item":
        return histories, targets
    return append_mask(histories, mask_row), targets


def append_mask(histories: Int[Array, "B H"], mask_row: int) -> Int[Array, "B H+1"]:
    """Append the mask to each history, to predict the next item there (section 4.3)."""
    return append(histories, jnp.full(len(histories), mask_row))


def append(histories: Int[Array, "B H"], items: Int[Array, " B"]) -> Int[Array, "B H+1"]:
    """Append one item to each history, before its padding."""
    length = jnp.sum(histories >= 0, axis=1, keepdims=True)
    longer = jnp.pad(histories, ((0, 0), (0, 1)), constant_values=-1)
    return jnp.where(jnp.arange(longer.shape[1]) == length, items[:, None], longer)
