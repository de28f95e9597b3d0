"""Titles as item identifiers: the text of the log instead of `item_1234`.

A title becomes an identifier in four steps:

1. *Clean*: normalise to Unicode NFC, replace control characters and runs of white space by one
   space, and strip both ends. The case is kept. The angle brackets of text that looks like a
   special token (`<mask>`, `</s>`) become spaces, because the tokenizer would parse it as that
   token.
2. *Cut*: shorten to at most `max_tokens` tokens, at the end of a word. If not even the first word
   fits (a Chinese title may be a single word), cut it between two characters.
3. *Untitled*: an item without a title, or with an empty title after cleaning, is identified as
   `item_N` with its number N.
4. *Make unique*: append the number, ` N`, to all items that have the same tokens. If the result
   equals the identifier of another item, append that item's number too, until all differ. Two
   numbered identifiers always differ in their last word, so this terminates.

The numbers are those of the `random` indexing and carry no information. `max_tokens` does not count
the tokens of an appended number.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from genrec_jax.identifiers.tokenizer import SPECIAL_TOKENS, Vocabulary

_SPECIAL = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))
_NOT_TEXT = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True)
class TitleIdentifiers:
    """The identifiers of all items, and the number of items that each step changed."""

    identifiers: tuple[str, ...]  # by item row
    untitled: int  # items identified as `item_N`
    cut: int  # titles longer than `max_tokens`
    cut_in_a_word: int  # titles of `cut` that were cut between two characters
    numbered: int  # titles with the item's number appended

    def summary(self) -> str:
        """Summarise the counts in one log line."""
        return (
            f"{len(self.identifiers)} items are identified by their titles: {self.untitled} "
            f"without a title became item_N, {self.cut} titles were cut ({self.cut_in_a_word} "
            f"within a word), {self.numbered} with the tokens of another item were numbered"
        )


def clean_title(title: str | None) -> str:
    """Return the cleaned title (step 1); the empty string if there is none."""
    text = _SPECIAL.sub(
        lambda match: f" {match[0][1:-1]} ", unicodedata.normalize("NFC", title or "")
    )
    return _NOT_TEXT.sub(" ", text).strip()


def title_identifiers(
    titles: Sequence[str],
    numbers: Int[np.ndarray, " N"],
    vocabulary: Vocabulary,
    max_tokens: int,
) -> TitleIdentifiers:
    """Make unique identifiers from cleaned titles (steps 2 to 4).

    Args:
        titles: the cleaned title of every item; the empty string if it has none.
        numbers: the number of every item, all different.
        vocabulary: the tokenizer of the identifiers.
        max_tokens: the maximum number of tokens of a title, without an appended number; at least
            8.
    """
    kept, cut, cut_in_a_word = _cut(titles, vocabulary, max_tokens)
    identifiers = [title or f"item_{number}" for title, number in zip(kept, numbers, strict=True)]
    numbered = _number_duplicates(identifiers, numbers, vocabulary)
    return TitleIdentifiers(
        identifiers=tuple(identifiers),
        untitled=sum(not title for title in titles),
        cut=cut,
        cut_in_a_word=cut_in_a_word,
        numbered=numbered,
    )


def _cut(
    titles: Sequence[str], vocabulary: Vocabulary, max_tokens: int
) -> tuple[list[str], int, int]:
    """Return the shortened titles, and the numbers of titles cut and cut within a word."""
    kept = list(titles)
    within_word: set[int] = set()
    rows: Sequence[int] = range(len(kept))
    n_cut = 0
    while rows:
        encodings = vocabulary.tokenizer.encode_batch(
            [kept[row] for row in rows], add_special_tokens=False
        )
        too_long = []
        for row, encoding in zip(rows, encodings, strict=True):
            if len(encoding.ids) > max_tokens:
                # Cut where the first token that does not fit starts; a character that it shares
                # with the previous token does not fit either.
                kept[row], is_in_word = _shortened(kept[row], encoding.offsets[max_tokens][0])
                too_long.append(row)
                within_word |= {row} if is_in_word else set()
        n_cut = n_cut or len(too_long)
        rows = too_long  # checked again, since part of a word may take more tokens than in the word
    return kept, n_cut, len(within_word)


def _shortened(title: str, end: int) -> tuple[str, bool]:
    """Return the complete words of title[:end] and False; title[:end] and True if it has none."""
    if title[end].isspace() or title[end - 1].isspace():
        return title[:end].rstrip(), False
    words, _, _ = title[:end].rpartition(" ")
    return (words, False) if words else (title[:end], True)


def _number_duplicates(
    identifiers: list[str], numbers: Int[np.ndarray, " N"], vocabulary: Vocabulary
) -> int:
    """Append numbers in place until all identifiers have different tokens; return their count."""
    tokens = [tuple(encoded) for encoded in vocabulary.encode(identifiers)]
    numbered: set[int] = set()
    while True:
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, key in enumerate(tokens):
            rows_of.setdefault(key, []).append(row)
        rows = [
            row
            for group in rows_of.values()
            if len(group) > 1
            for row in group
            if row not in numbered
        ]
        if not rows:
            return len(numbered)
        for row in rows:
            identifiers[row] = f"{identifiers[row]} {numbers[row]}"
        renamed = vocabulary.encode([identifiers[row] for row in rows])
        for row, encoded in zip(rows, renamed, strict=True):
            tokens[row] = tuple(encoded)
        numbered |= set(rows)
