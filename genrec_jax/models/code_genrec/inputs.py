"""Integers → one vector an item for the encoder, inside jit.

Position 0 is the beginning: `<s>` and, where the user is known, the tokens of the user's name and
its id, added up. Position 1 + h is item h of the history: the symbols of its identifier and its id,
added up.

    masked      items and `<mask>` in the place of one of them, or after the last; every position
                looks at all; the prediction is made at `<mask>`
    causal      items alone; a position looks at itself and what came before; what comes next is
                predicted at every position or at the last

Axes: B users in a batch, H items of history, T = 1 + H positions and padding, G targets of a user,
P tokens of an identifier.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from genrec_jax.models.contract import Objective
from genrec_jax.models.tables import DeviceTable


class ItemInput(NamedTuple):
    """The positions of each user's row; -1 means that there is nothing."""

    user_tokens: Int[Array, "B P_user"]  # added up at position 0
    item_tokens: Int[Array, "B T-1 P_item"]  # added up at the positions after it
    users: Int[Array, " B"]  # rows of the id tables
    items: Int[Array, "B T-1"]
    look: Bool[Array, "B #T T"]
    queries: Int[Array, "B G"]  # the positions that predictions are made from
    last: Int[Array, "B 1"]  # the last position that is no padding


def item_input(
    table: DeviceTable,
    users: Int[Array, " B"],
    items: Int[Array, "B H"],
    length: int,
    objective: Objective,
) -> ItemInput:
    """Lay out the positions of a batch.

    Args:
        table: the tokens of every identifier.
        users: user rows, -1 for nobody.
        items: item rows, `table.mask_row` for the mask, -1 for padding after the last; fewer than
            `length` in a row.
        length: T.
        objective: what is predicted; `masking.mask_items` has put the mask.
    """
    missing = length - 1 - items.shape[1]
    rows = jnp.pad(items, ((0, 0), (0, max(missing, 0))), constant_values=-1)[:, : length - 1]
    is_mask = rows == table.mask_row
    item_tokens = _name_tokens(table, rows, table.item_width)
    user_tokens = _name_tokens(
        table, jnp.where(users >= 0, users + table.mask_row + 1, -1), table.tokens.shape[1]
    )
    begin = jnp.full((len(users), 1), table.bos)
    present = jnp.concatenate([jnp.full_like(begin, True), rows >= 0], axis=1).astype(bool)
    last = jnp.sum(rows >= 0, axis=1, keepdims=True)
    positions = jnp.arange(length)
    if objective == "every_item":
        look = present[:, None, :] & (positions <= positions[:, None])
        queries = jnp.broadcast_to(positions, present.shape)
    elif objective == "following_item":
        look = present[:, None, :] & (positions <= positions[:, None])
        queries = last
    else:
        look = present[:, None, :]
        queries = 1 + jnp.argmax(is_mask, axis=1, keepdims=True)
    return ItemInput(
        user_tokens=jnp.concatenate([begin, user_tokens], 1),
        item_tokens=item_tokens,
        users=users,
        items=jnp.where(is_mask, -1, rows),
        look=look,
        queries=queries,
        last=last,
    )


def targets_by_position(targets: Int[Array, "B *n"], length: int) -> Int[Array, "B G"]:
    """The target of each query: one a user, or those of `every_item` padded to all positions."""
    if targets.ndim == 1:
        return targets[:, None]
    return jnp.pad(targets, ((0, 0), (0, length - targets.shape[1])), constant_values=-1)


def _name_tokens(table: DeviceTable, rows: Int[Array, "..."], width: int) -> jax.Array:
    """[..., P] of some rows of the table, -1 after a name and where the row is -1."""
    tokens = table.tokens[jnp.maximum(rows, 0), :width]
    lengths = jnp.where(rows >= 0, table.lengths[jnp.maximum(rows, 0)], 0)
    return jnp.where(jnp.arange(width) < lengths[..., None], tokens, -1)
