"""What is hidden: which item is masked (sections 4.2 and 4.3, Figure 2), and which users.

Pretraining replaces one random item of the training part by the mask; finetuning puts the mask
behind the last item. Both ask the decoder for the one item that belongs there. Beyond the paper, an
encoder that looks back only is asked, without a mask, for the item that follows the last, or for
every next item at once.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from genrec_jax.models.inputs import append, append_mask

Objective = Literal["random_item", "next_item", "following_item", "every_item"]
CAUSAL: tuple[Objective, ...] = ("following_item", "every_item")  # without a mask


def mask_random_item(
    key: jax.Array, histories: Int[Array, "B H"], mask_row: int
) -> tuple[Int[Array, "B H"], Int[Array, " B"]]:
    """One item of each history, each equally likely, becomes the mask.

    Returns the masked histories and the item that stood there (-1 for an empty history).
    """
    length = jnp.sum(histories >= 0, axis=1)
    chosen = jnp.floor(jax.random.uniform(key, length.shape) * length).astype(jnp.int32)
    chosen = jnp.minimum(chosen, jnp.maximum(length - 1, 0))[:, None]  # uniform may round up to 1
    targets = jnp.take_along_axis(histories, chosen, axis=1)
    is_masked = (jnp.arange(histories.shape[1]) == chosen) & (targets >= 0)
    return jnp.where(is_masked, mask_row, histories), targets[:, 0]


def drop_users(key: jax.Array, users: Int[Array, " B"], rate: float) -> Int[Array, " B"]:
    """A share `rate` of the examples loses its user (-1): neither name nor id is seen."""
    if rate == 0.0:
        return users
    return jnp.where(jax.random.bernoulli(key, rate, users.shape), -1, users)


def mask_items(
    objective: Objective,
    key: jax.Array,
    histories: Int[Array, "B H"],
    targets: Int[Array, " B"],
    mask_row: int,
) -> tuple[Int[Array, "B H_masked"], Int[Array, "B *n"]]:
    """The histories with their mask, and the item that each mask stands for.

    With `following_item` there is no mask. Nor with `every_item`: the histories, and each item
    again as a target before it comes, the one that comes next at the end, [B, H+1].
    """
    if objective == "random_item":
        return mask_random_item(key, histories, mask_row)
    if objective == "every_item":
        return histories, append(histories, targets)
    if objective == "following_item":
        return histories, targets
    return append_mask(histories, mask_row), targets
