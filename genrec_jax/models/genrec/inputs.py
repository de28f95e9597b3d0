"""Build the input sequences of encoder and decoder from integers, inside jit (equation 1).

For user 22 with the items 1234, 56 and 87, the sequences have exactly these tokens of BART. `Ġ`
marks a leading space, which byte-level BPE makes part of the token:

    encoder, pretraining   <s> Ġuser _ 22 Ġitem _ 12 34 <mask> Ġitem _ 87 </s> <pad>
    encoder, finetuning    <s> Ġuser _ 22 Ġitem _ 12 34 Ġitem _ 87 <mask> </s> <pad>
    encoder, decoding      <s> Ġuser _ 22 Ġitem _ 12 34 Ġitem _ 87 <mask> </s> <pad>
    decoder, training      </s> Ġitem _ 56 <pad>
    labels, training       Ġitem _ 56 </s> <pad>
    decoder, decoding      </s> Ġitem _ 56
    generated, decoding    Ġitem _ 56 </s>

One `<mask>` replaces the masked item, whatever its number of tokens. In finetuning and decoding,
the masked item is the next one. As in BART's pretraining, decoding starts from `</s>`. It generates
an item's identifier and then `</s>`, whose log-probability is part of the item's score. The decoder
never reads or generates `<s>`. Labels after `</s>` have no loss. A dropped user (-1) has no tokens,
so that the first item follows `<s>`. The encoder does not attend to `<pad>`.

In the encoder, every token of an identifier has the id of its user or item; `<s>`, `</s>`, `<pad>`
and `<mask>` have none. tests/models/genrec/test_inputs.py parses the table above and compares the
code with it.

Axes: B users in a batch, H items of history, T encoder tokens, S decoder tokens, R rows of the
token table, P tokens of an identifier.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from genrec_jax.models.tables import DeviceTable


class EncoderInput(NamedTuple):
    """The encoder's input, one sequence per user.

    A segment is the tokens of one identifier: 0 for the user, 1 + h for item h of the history.
    Tokens without an id have the segment 1 + H.
    """

    tokens: Int[Array, "B T"]
    segments: Int[Array, "B T"]  # index of the identifier that each token belongs to
    users: Int[Array, " B"]  # rows of the user id table, -1 for none
    items: Int[Array, "B H"]  # rows of the item id table, -1 for none (padding and the mask)
    mask: Bool[Array, "B T"]  # False at padding

    @property
    def last(self) -> Int[Array, "B 1"]:
        """The position of `</s>`, the last token before the padding."""
        return jnp.sum(self.mask, axis=1, keepdims=True) - 1

    @property
    def attention_mask(self) -> Bool[Array, "B 1 T"]:
        """The attention mask, in which every token attends to all tokens but padding."""
        return self.mask[:, None, :]


class DecoderInput(NamedTuple):
    """The decoder's input and labels, one target per user."""

    tokens: Int[Array, "B S"]  # the labels, shifted to the right by one
    labels: Int[Array, "B S"]
    weights: Bool[Array, "B S"]  # weights of the loss: False at padding and in rows without target

    @property
    def has_target(self) -> Bool[Array, " B"]:
        """Whether each row has a target item."""
        return self.weights[..., 0]


def encoder_input(
    table: DeviceTable, users: Int[Array, " B"], items: Int[Array, "B H"], n_tokens: int
) -> EncoderInput:
    """Build the encoder's input: `<s>`, the identifiers, `</s>`, and padding.

    Args:
        table: the tokens of every user's and item's identifier.
        users: the row of each user, -1 for an unknown or dropped user and for padding.
        items: the item rows of each history, with the most recent item last, then padding (-1).
            The masked item is `table.mask_row`.
        n_tokens: T, the padded length. Histories must be short enough to fit.

    Returns:
        The token ids, with the segment of each token, and the rows of the id tables.
    """
    rows = jnp.concatenate([users[:, None] + table.n_items + 1, items], axis=1)  # [B, 1+H]
    present = jnp.concatenate([users[:, None], items], axis=1) >= 0
    lengths = jnp.where(present, table.lengths[rows], 0)
    ends = 1 + jnp.cumsum(lengths, axis=1)  # the position after each identifier; <s> is at 0
    starts = ends - lengths

    position = jnp.arange(n_tokens)
    # The segment of a position is the number of identifiers that end before it.
    segments = jnp.sum(ends[:, None, :] <= position[None, :, None], axis=-1)  # [B, T]
    segment = jnp.minimum(segments, items.shape[1])
    offset = position - jnp.take_along_axis(starts, segment, axis=1)
    tokens = table.tokens[jnp.take_along_axis(rows, segment, axis=1), offset]

    last = ends[:, -1:]
    is_bos = position == 0
    tokens = jnp.where(is_bos, table.bos, tokens)
    tokens = jnp.where(position == last, table.eos, tokens)
    tokens = jnp.where(position > last, table.pad, tokens)
    no_segment = items.shape[1] + 1
    return EncoderInput(
        tokens=tokens,
        segments=jnp.where(is_bos | (position >= last), no_segment, segments),
        users=users,
        items=jnp.where(items < table.n_items, items, -1),
        mask=position <= last,
    )


def decoder_input(table: DeviceTable, targets: Int[Array, " B"]) -> DecoderInput:
    """Build the decoder's input and labels for teacher forcing.

    Args:
        table: the tokens of every user's and item's identifier.
        targets: the row of each target item, -1 for none.

    Returns:
        The labels, which are the target's tokens and `</s>`, and the input, which is shifted to the
        right and starts with `</s>`. S is the number of tokens of the longest item, plus 1.
    """
    tokens = table.tokens[targets, : table.item_width]  # [B, P]
    lengths = table.lengths[targets][:, None]
    labels = jnp.pad(tokens, ((0, 0), (0, 1)), constant_values=table.pad)
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
