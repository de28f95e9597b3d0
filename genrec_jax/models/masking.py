"""What is hidden of a batch: which item is masked (sections 4.2 and 4.3, Figure 2), and which
users.

Pretraining replaces one random item of the training part by the mask; finetuning puts the mask
after the last item. Both ask for the one item that belongs there. Beyond the paper, an encoder that
looks back only is asked, without a mask, for the item that follows the last, or for every next item
at once.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from genrec_jax.models.contract import Objective


def mask_random_item(
    key: jax.Array, histories: Int[Array, "B H"], mask_row: int
) -> tuple[Int[Array, "B H"], Int[Array, " B"]]:
    """Replace one item of each history, each equally likely, by the mask.

    Returns the masked histories and the item that was there (-1 for an empty history).
    """
    length = jnp.sum(histories >= 0, axis=1)
    chosen = jnp.floor(jax.random.uniform(key, length.shape) * length).astype(jnp.int32)
    chosen = jnp.minimum(chosen, jnp.maximum(length - 1, 0))[:, None]  # uniform may round up to 1
    targets = jnp.take_along_axis(histories, chosen, axis=1)
    is_masked = (jnp.arange(histories.shape[1]) == chosen) & (targets >= 0)
    return jnp.where(is_masked, mask_row, histories), targets[:, 0]


def drop_users(key: jax.Array | None, users: Int[Array, " B"], rate: float) -> Int[Array, " B"]:
    """Leave out the user (-1) of a random share `rate` of the examples; without a key, of none."""
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
    """Put the mask where an objective has it; returns the histories and the targets.

    With `following_item` and `every_item` there is no mask. The targets of `every_item` are the
    items of the history, then the one after it, [B, H+1]. Only `random_item` needs a key.
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
    """Put `<mask>` after the last item of each history, to ask for the next one (section 4.3)."""
    return append(histories, jnp.full(len(histories), mask_row))


def append(histories: Int[Array, "B H"], items: Int[Array, " B"]) -> Int[Array, "B H+1"]:
    """Put one more item after the last of each history."""
    length = jnp.sum(histories >= 0, axis=1, keepdims=True)
    longer = jnp.pad(histories, ((0, 0), (0, 1)), constant_values=-1)
    return jnp.where(jnp.arange(longer.shape[1]) == length, items[:, None], longer)
