"""The encoder's input: one position for the user and one per item, laid out inside jit.

The vector of position 0 is the sum of the embeddings of `<s>` and, for a known user, of the tokens
of the user's identifier and the user's id. The vector of position 1 + h is the sum of the
embeddings of the tokens of item h's identifier and the item's id.

    masked      `<mask>` replaces an item of the history or follows the last one; attention is
                bidirectional; the query position is that of `<mask>`
    causal      there is no mask; a position attends to itself and earlier positions; the query
                positions are all positions or the last one

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
    """The positions of each user's row; -1 stands for a missing token, user or item."""

    user_tokens: Int[Array, "B P_user"]  # tokens of position 0
    item_tokens: Int[Array, "B T-1 P_item"]  # tokens of each later position
    users: Int[Array, " B"]  # user rows, for position 0
    items: Int[Array, "B T-1"]  # item rows of the later positions, -1 at the mask
    attention_mask: Bool[Array, "B #T T"]  # True where a position may attend to another
    queries: Int[Array, "B G"]  # the query positions, from which the targets are predicted
    last: Int[Array, "B 1"]  # the last position that is not padding


def item_input(
    table: DeviceTable,
    users: Int[Array, " B"],
    items: Int[Array, "B H"],
    length: int,
    objective: Objective,
) -> ItemInput:
    """Lay out the encoder positions of a batch.

    Args:
        table: the tokens of every identifier.
        users: user rows, -1 for an unknown or dropped user.
        items: item rows, `table.mask_row` for the mask, -1 for padding at the end; fewer than
            `length` in a row.
        length: T, the padded number of positions.
        objective: the prediction task; `masking.mask_items` has already inserted its mask.
    """
    n_padding = length - 1 - items.shape[1]
    rows = jnp.pad(items, ((0, 0), (0, max(n_padding, 0))), constant_values=-1)[:, : length - 1]
    is_mask = rows == table.mask_row
    item_tokens = _identifier_tokens(table, rows, table.item_width)
    user_tokens = _identifier_tokens(
        table, jnp.where(users >= 0, users + table.mask_row + 1, -1), table.tokens.shape[1]
    )
    bos = jnp.full((len(users), 1), table.bos)
    present = jnp.concatenate([jnp.full_like(bos, True), rows >= 0], axis=1).astype(bool)
    last = jnp.sum(rows >= 0, axis=1, keepdims=True)
    positions = jnp.arange(length)
    if objective == "every_item":
        attention_mask = present[:, None, :] & (positions <= positions[:, None])
        queries = jnp.broadcast_to(positions, present.shape)
    elif objective == "following_item":
        attention_mask = present[:, None, :] & (positions <= positions[:, None])
        queries = last
    else:
        attention_mask = present[:, None, :]
        queries = 1 + jnp.argmax(is_mask, axis=1, keepdims=True)
    return ItemInput(
        user_tokens=jnp.concatenate([bos, user_tokens], 1),
        item_tokens=item_tokens,
        users=users,
        items=jnp.where(is_mask, -1, rows),
        attention_mask=attention_mask,
        queries=queries,
        last=last,
    )


def targets_by_position(targets: Int[Array, "B *n"], length: int) -> Int[Array, "B G"]:
    """Return the target of each query: one per user, or `length` targets with `every_item`."""
    if targets.ndim == 1:
        return targets[:, None]
    return jnp.pad(targets, ((0, 0), (0, length - targets.shape[1])), constant_values=-1)


def _identifier_tokens(table: DeviceTable, rows: Int[Array, "..."], width: int) -> jax.Array:
    """Return tokens of table rows, [..., P]; -1 after an identifier and where the row is -1."""
    tokens = table.tokens[jnp.maximum(rows, 0), :width]
    lengths = jnp.where(rows >= 0, table.lengths[jnp.maximum(rows, 0)], 0)
    return jnp.where(jnp.arange(width) < lengths[..., None], tokens, -1)
