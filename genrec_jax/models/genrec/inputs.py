"""Integers → what the encoder and the decoder see, inside jit (equation 1 of the paper).

Exactly these tokens, here for a user 22 with the items 1234, 56 and 87 in BART's tokens; `Ġ` marks
the leading space that byte-level BPE folds into a word:

    encoder, pretraining   <s> Ġuser _ 22 Ġitem _ 12 34 <mask> Ġitem _ 87 </s> <pad>
    encoder, finetuning    <s> Ġuser _ 22 Ġitem _ 12 34 Ġitem _ 87 <mask> </s> <pad>
    encoder, decoding      <s> Ġuser _ 22 Ġitem _ 12 34 Ġitem _ 87 <mask> </s> <pad>
    decoder, training      </s> Ġitem _ 56 <pad>
    labels, training       Ġitem _ 56 </s> <pad>
    decoder, decoding      </s> Ġitem _ 56
    written, decoding      Ġitem _ 56 </s>

The masked item is one `<mask>` however many tokens it had; in finetuning and in decoding it is the
item that comes next. Decoding starts from `</s>`, as BART was trained to, writes an item's name and
ends it with `</s>`, whose probability counts; the decoder never sees or writes `<s>`. After a
label of `</s>` there is no loss. A user left out (-1) leaves no token, and `<s>` is followed by the
first item. The encoder never looks at `<pad>`.

Every token of a name carries the name's id, in the encoder alone; `<s>`, `</s>`, `<pad>` and
`<mask>` carry none. tests/models/genrec/test_inputs.py reads this text and holds the code to it.

Axes: B users in a batch, H items of history, T encoder tokens, S decoder tokens, R rows of the
token table, P tokens in a name.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from genrec_jax.models.tables import DeviceTable


class EncoderInput(NamedTuple):
    """A sentence a user. Slot 0 is the user's name, slot 1 + h item h, slot 1 + H no name."""

    tokens: Int[Array, "B T"]
    slots: Int[Array, "B T"]
    users: Int[Array, " B"]  # row of the user id table, -1: none
    items: Int[Array, "B H"]  # rows of the item id table, -1: none (padding and the mask)
    mask: Bool[Array, "B T"]  # False at padding

    @property
    def last(self) -> Int[Array, "B 1"]:
        """The position of `</s>`, the last token that is not padding."""
        return jnp.sum(self.mask, axis=1, keepdims=True) - 1

    @property
    def look(self) -> Bool[Array, "B 1 T"]:
        """Where a token may look: all may look everywhere."""
        return self.mask[:, None, :]


class DecoderInput(NamedTuple):
    """A target a user; `weights` is False at padding and for rows that only fill the batch."""

    tokens: Int[Array, "B S"]
    labels: Int[Array, "B S"]
    weights: Bool[Array, "B S"]

    @property
    def has_target(self) -> Bool[Array, " B"]:
        return self.weights[..., 0]


def encoder_input(
    table: DeviceTable, users: Int[Array, " B"], items: Int[Array, "B H"], n_tokens: int
) -> EncoderInput:
    """`<s>`, the names one after the other, `</s>`, padding up to T = `n_tokens`.

    Args:
        table: the tokens of every name.
        users: user rows, -1 for a row that only fills the batch.
        items: item rows, `table.mask_row` for the mask, -1 for padding after the last.
        n_tokens: must hold the sentence; the host has cut histories to make it so.
    """
    rows = jnp.concatenate([users[:, None] + table.n_items + 1, items], axis=1)  # [B, 1+H]
    present = jnp.concatenate([users[:, None], items], axis=1) >= 0
    lengths = jnp.where(present, table.lengths[rows], 0)
    ends = 1 + jnp.cumsum(lengths, axis=1)  # position after each name; <s> is at 0
    starts = ends - lengths

    position = jnp.arange(n_tokens)
    # The name that covers each position: as many names have ended before it.
    slots = jnp.sum(ends[:, None, :] <= position[None, :, None], axis=-1)  # [B, T]
    slot = jnp.minimum(slots, items.shape[1])
    offset = position - jnp.take_along_axis(starts, slot, axis=1)
    tokens = table.tokens[jnp.take_along_axis(rows, slot, axis=1), offset]

    last = ends[:, -1:]
    is_bos = position == 0
    tokens = jnp.where(is_bos, table.bos, tokens)
    tokens = jnp.where(position == last, table.eos, tokens)
    tokens = jnp.where(position > last, table.pad, tokens)
    no_name = items.shape[1] + 1
    return EncoderInput(
        tokens=tokens,
        slots=jnp.where(is_bos | (position >= last), no_name, slots),
        users=users,
        items=jnp.where(items < table.n_items, items, -1),
        mask=position <= last,
    )


def decoder_input(table: DeviceTable, targets: Int[Array, " B"]) -> DecoderInput:
    """Labels `name </s>` and the same shifted right after `</s>`; S = longest item name + 1."""
    names = table.tokens[targets, : table.item_width]  # [B, P]
    lengths = table.lengths[targets][:, None]
    labels = jnp.pad(names, ((0, 0), (0, 1)), constant_values=table.pad)
    position = jnp.arange(table.item_width + 1)
    labels = jnp.where(position == lengths, table.eos, labels)
    labels = jnp.where(position > lengths, table.pad, labels)
    start = jnp.full_like(labels[:, :1], table.eos)
    shifted = jnp.where(position[:-1] < lengths, labels[:, :-1], table.pad)
    return DecoderInput(
        tokens=jnp.concatenate([start, shifted], axis=1),
        labels=labels,
        weights=(position <= lengths) & (targets >= 0)[:, None],
    )
