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
    """The tokens of all identifiers: tokens[row, :lengths[row]], then padding.

    Rows are the N items, the mask, and the U users.
    """

    tokens: Int[np.ndarray, "R P"]
    lengths: Int[np.ndarray, " R"]
    n_items: int
    bos: int
    pad: int
    eos: int

    @property
    def n_users(self) -> int:
        """U, the number of users."""
        return len(self.lengths) - self.n_items - 1

    @property
    def mask_row(self) -> int:
        """The row of the mask."""
        return self.n_items

    @property
    def item_tokens(self) -> Int[np.ndarray, "N P_item"]:
        """The tokens of the items, as wide as the longest item identifier."""
        return self.tokens[: self.n_items, : self.item_lengths.max()]

    @property
    def item_lengths(self) -> Int[np.ndarray, " N"]:
        """The number of tokens of each item."""
        return self.lengths[: self.n_items]

    @property
    def user_lengths(self) -> Int[np.ndarray, " U"]:
        """The number of tokens of each user."""
        return self.lengths[self.n_items + 1 :]


def build_token_table(
    vocabulary: Vocabulary, item_identifiers: list[str], user_identifiers: list[str]
) -> TokenTable:
    """Tokenize all identifiers of a catalogue.

    Args:
        vocabulary: the tokenizer.
        item_identifiers: the identifier of every item.
        user_identifiers: the identifier of every user.

    Raises:
        InputError: two items have the same tokens, or an identifier has a character that the
            tokenizer does not know. Either would make decoding ambiguous.
    """
    rows = [
        *vocabulary.encode(item_identifiers),
        [vocabulary.mask],
        *vocabulary.encode(user_identifiers),
    ]
    lengths = np.array([len(tokens) for tokens in rows], dtype=np.int32)
    table = np.full((len(rows), int(lengths.max())), vocabulary.pad, dtype=np.int32)
    table[np.arange(table.shape[1]) < lengths[:, None]] = [t for tokens in rows for t in tokens]

    unknown = vocabulary.tokenizer.token_to_id("<unk>")
    bad = np.flatnonzero((table == unknown).any(axis=1))
    if len(bad):
        identifier = [*item_identifiers, "<mask>", *user_identifiers][bad[0]]
        raise InputError(
            f"found the identifier {identifier!r}, expected characters that the tokenizer knows"
        )
    _, first, counts = np.unique(
        table[: len(item_identifiers)], axis=0, return_index=True, return_counts=True
    )
    if (counts > 1).any():
        identifier = item_identifiers[first[counts > 1][0]]
        raise InputError(f"found two items with the tokens of {identifier!r}, expected one")
    return TokenTable(
        table, lengths, len(item_identifiers), vocabulary.bos, vocabulary.pad, vocabulary.eos
    )
