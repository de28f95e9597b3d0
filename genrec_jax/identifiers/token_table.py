"""The tokens of every name as one padded table: nothing is tokenized twice.

Rows of the table: items 0 … N-1, then the mask at row N, then users at N+1 … N+U. A sentence is a
list of rows, and becomes tokens on the device.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from genrec_jax.core.errors import InputError
from genrec_jax.identifiers.tokenizer import Vocabulary


@dataclass(frozen=True)
class TokenTable:
    """tokens[row, :lengths[row]] are a name's tokens; the rest of the row is padding."""

    tokens: Int[np.ndarray, "R P"]
    lengths: Int[np.ndarray, " R"]
    n_items: int
    bos: int
    pad: int
    eos: int

    @property
    def n_users(self) -> int:
        return len(self.lengths) - self.n_items - 1

    @property
    def mask_row(self) -> int:
        return self.n_items

    @property
    def item_tokens(self) -> Int[np.ndarray, "N P_item"]:
        """The items' part of the table, no wider than the longest item name."""
        return self.tokens[: self.n_items, : self.item_lengths.max()]

    @property
    def item_lengths(self) -> Int[np.ndarray, " N"]:
        return self.lengths[: self.n_items]

    @property
    def user_lengths(self) -> Int[np.ndarray, " U"]:
        return self.lengths[self.n_items + 1 :]


def build_token_table(
    vocabulary: Vocabulary, item_names: list[str], user_names: list[str]
) -> TokenTable:
    """Tokenize the whole catalogue once.

    Raises:
        InputError: two items have the same tokens, or a name holds a character that the
            tokenizer does not know; either would make decoding ambiguous.
    """
    names = [*vocabulary.encode(item_names), [vocabulary.mask], *vocabulary.encode(user_names)]
    lengths = np.array([len(tokens) for tokens in names], dtype=np.int32)
    table = np.full((len(names), int(lengths.max())), vocabulary.pad, dtype=np.int32)
    table[np.arange(table.shape[1]) < lengths[:, None]] = [t for tokens in names for t in tokens]

    unknown = vocabulary.tokenizer.token_to_id("<unk>")
    bad = np.flatnonzero((table == unknown).any(axis=1))
    if len(bad):
        name = [*item_names, "<mask>", *user_names][bad[0]]
        raise InputError(f"the name {name!r} holds characters that the tokenizer does not know")
    _, first, counts = np.unique(
        table[: len(item_names)], axis=0, return_index=True, return_counts=True
    )
    if (counts > 1).any():
        name = item_names[first[counts > 1][0]]
        raise InputError(f"the item {name!r} has the same tokens as another item")
    return TokenTable(
        table, lengths, len(item_names), vocabulary.bos, vocabulary.pad, vocabulary.eos
    )
