"""Integers → one vector an item for the encoder, inside jit (`model.encoder_unit` item or id).

Slot 0 is the beginning: `<s>` and, where the user is known, the tokens of the user's name and its
id, added up. Slot 1 + h is item h of the history: the tokens of its name and its id, added up. With
the unit `id` an item is its id alone, and nothing looks at the beginning.

    masked      items and `<mask>` in the place of one of them, or behind the last; every slot looks
                at all; the question stands at `<mask>`
    causal      items alone; a slot looks at itself and what came before; the question for what
                comes next stands at every slot in training, at the last in decoding

Axes: B users in a batch, H items of history, T = 1 + H slots and padding, G questions of a user,
P tokens in a name.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from genrec_jax.models.inputs import DeviceTable, EncoderInput, append_mask, encoder_input

Unit = Literal["token", "item", "id"]


class ItemInput(NamedTuple):
    """A row of slots a user; -1 stands for nothing throughout."""

    user_tokens: Int[Array, "B P_user"]  # added up in slot 0
    item_tokens: Int[Array, "B T-1 P_item"]  # added up in the slots behind it
    users: Int[Array, " B"]  # rows of the id tables
    items: Int[Array, "B T-1"]
    look: Bool[Array, "B #T T"]
    questions: Int[Array, "B G"]  # slots
    last: Int[Array, "B 1"]  # the last slot that is no padding


Sentence = EncoderInput | ItemInput


def item_input(
    table: DeviceTable,
    unit: Unit,
    users: Int[Array, " B"],
    items: Int[Array, "B H"],
    n_slots: int,
    causal: bool,
    every: bool,
) -> ItemInput:
    """Slots for T = `n_slots`.

    Args:
        table: the tokens of every name.
        unit: what a slot is made of.
        users: user rows, -1 for nobody.
        items: item rows, `table.mask_row` for the mask, -1 for padding behind the last. There are
            less than `n_slots`.
        n_slots: T.
        causal: whether a slot looks back only.
        every: with `causal`, whether every slot asks, or the last item's alone.
    """
    missing = n_slots - 1 - items.shape[1]
    rows = jnp.pad(items, ((0, 0), (0, max(missing, 0))), constant_values=-1)[:, : n_slots - 1]
    is_mask = rows == table.mask_row
    by_id = unit == "id"
    item_tokens = _name_tokens(table, rows, table.item_width)
    user_tokens = _name_tokens(
        table, jnp.where(users >= 0, users + table.mask_row + 1, -1), table.tokens.shape[1]
    )
    begin = jnp.full((len(users), 1), table.bos)
    present = jnp.concatenate([jnp.full_like(begin, not by_id), rows >= 0], axis=1).astype(bool)
    last = jnp.sum(rows >= 0, axis=1, keepdims=True)
    if causal:
        slots = jnp.arange(n_slots)
        # Without an item the question stands at slot 0, which must have something to look at.
        present |= (slots == 0) & (last == 0)
        look = present[:, None, :] & (slots <= slots[:, None])
        questions = jnp.broadcast_to(slots, present.shape) if every else last
    else:
        look = present[:, None, :]
        questions = 1 + jnp.argmax(is_mask, axis=1, keepdims=True)
    return ItemInput(
        user_tokens=jnp.full_like(begin, -1) if by_id else jnp.concatenate([begin, user_tokens], 1),
        item_tokens=jnp.where(is_mask[..., None], item_tokens, -1) if by_id else item_tokens,
        users=jnp.full_like(users, -1) if by_id else users,
        items=jnp.where(is_mask, -1, rows),
        look=look,
        questions=questions,
        last=last,
    )


def sentence_input(
    table: DeviceTable,
    unit: Unit,
    users: Int[Array, " B"],
    items: Int[Array, "B H"],
    n_tokens: int,
    causal: bool = False,
    every: bool = False,
) -> Sentence:
    """What the encoder reads, in either unit; arguments as of `item_input`."""
    if unit == "token":
        return encoder_input(table, users, items, n_tokens)
    return item_input(table, unit, users, items, n_tokens, causal, every)


def read_history(
    table: DeviceTable,
    unit: Unit,
    users: Int[Array, " B"],
    histories: Int[Array, "B H"],
    n_tokens: int,
    causal: bool,
) -> Sentence:
    """What the encoder reads to say what comes after each history."""
    items = histories if causal else append_mask(histories, table.mask_row)
    return sentence_input(table, unit, users, items, n_tokens, causal)


def targets_by_slot(unit: Unit, targets: Int[Array, "B n"], n_slots: int) -> Int[Array, "B T"]:
    """What comes next at every slot, of the items from the first on; -1 where nothing is asked."""
    by_slot = jnp.pad(targets, ((0, 0), (0, n_slots - targets.shape[1])), constant_values=-1)
    return by_slot.at[:, 0].set(-1) if unit == "id" else by_slot


def _name_tokens(table: DeviceTable, rows: Int[Array, "..."], width: int) -> jax.Array:
    """[..., P] of some rows of the table, -1 behind a name and where the row is -1."""
    tokens = table.tokens[jnp.maximum(rows, 0), :width]
    lengths = jnp.where(rows >= 0, table.lengths[jnp.maximum(rows, 0)], 0)
    return jnp.where(jnp.arange(width) < lengths[..., None], tokens, -1)
