"""The tokens of all identifiers as one padded table, so that each is tokenized only once.

The rows of the table are the items (0 … N-1), the mask (N) and the users (N+1 … N+U). An input
sequence is a sequence of rows, which are replaced by their tokens on the device.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from genrec_jax.core.errors import InputError
from genrec_jax.identifiers.tokenizer import Vocabulary


@dataclass(frozen=True)
class TokenTable:
    """The tokens of all identifiers: `tokens[row, :lengths[row]]`, followed by padding.

    The rows are the N items, the mask, and the U users.
    """

    tokens: Int[np.ndarray, "R P"]
    lengths: Int[np.ndarray, " R"]  # number of tokens of each row
    n_items: int
    bos: int  # token id of <s>
    pad: int  # token id of <pad>
    eos: int  # token id of </s>

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
        """The items' tokens, padded to the longest item identifier."""
        return self.tokens[: self.n_items, : self.item_lengths.max()]

    @property
    def item_lengths(self) -> Int[np.ndarray, " N"]:
        """The number of tokens of each item's identifier."""
        return self.lengths[: self.n_items]

    @property
    def user_lengths(self) -> Int[np.ndarray, " U"]:
        """The number of tokens of each user's identifier."""
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
            tokenizer lacks. Either would make decoding ambiguous.
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
    affected = np.flatnonzero((table == unknown).any(axis=1))
    if len(affected):
        identifier = [*item_identifiers, "<mask>", *user_identifiers][affected[0]]
        raise InputError(
            f"found the identifier {identifier!r}, expected only characters in "
            "the tokenizer's vocabulary"
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
