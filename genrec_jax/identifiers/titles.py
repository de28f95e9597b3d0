"""Titles as item identifiers: text of the log instead of `item_1234`.

A title becomes an identifier in four steps:

1. *Clean*: Unicode NFC; control characters and runs of white space become one space, and none
remains
   at either end; the case stays. The brackets of text that looks like a special token (`<mask>`,
   `</s>`) become spaces, because the tokenizer would read it as that token.
2. *Cut* to at most `max_tokens` tokens at the end of a word. If not even the first word fits (a
title
   in Chinese may be one word), the word is cut between two characters.
3. *Untitled*: an item without a title, or with an empty one after cleaning, becomes `item_N`, with
   its number N.
4. *Make unique*: all items with the same tokens get their number appended, ` N`. If that equals the
   identifier of another item, the other gets its number too, until all differ. Two numbered
   identifiers always differ in their last word, so this terminates.

The numbers are those of the `random` indexing and carry no information. The tokens of a number are
not counted in `max_tokens`.
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
    """The identifiers of all items, in their order, and how many needed each step."""

    identifiers: tuple[str, ...]
    untitled: int  # items identified as `item_N`
    cut: int  # titles longer than `max_tokens`
    cut_in_a_word: int  # of these, titles cut between two characters
    numbered: int  # titles with the item's number appended

    def summary(self) -> str:
        """Return a line for the log."""
        return (
            f"{len(self.identifiers)} items are identified by their titles: {self.untitled} "
            f"without a title are item_N, {self.cut} titles are cut ({self.cut_in_a_word} within "
            f"a word), {self.numbered} have a number appended because others have the same tokens"
        )


def clean_title(title: str | None) -> str:
    """Clean a title (step 1); return the empty string if there is none."""
    text = _SPECIAL.sub(
        lambda found: f" {found[0][1:-1]} ", unicodedata.normalize("NFC", title or "")
    )
    return _NOT_TEXT.sub(" ", text).strip()


def title_identifiers(
    titles: Sequence[str],
    numbers: Int[np.ndarray, " N"],
    vocabulary: Vocabulary,
    max_tokens: int,
) -> TitleIdentifiers:
    """Make identifiers from titles (steps 2 to 4).

    Args:
        titles: the cleaned title of every item; the empty string if it has none.
        numbers: the number of every item, all different.
        vocabulary: the tokenizer of the identifiers.
        max_tokens: the most tokens of a title, without an appended number; at least 8.
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
    """Return titles of at most `max_tokens` tokens, and how many were cut, and within a word."""
    kept = list(titles)
    within_word: set[int] = set()
    rows: Sequence[int] = range(len(kept))
    n_cut = 0
    while rows:
        encodings = vocabulary.tokenizer.encode_batch(
            [kept[row] for row in rows], add_special_tokens=False
        )
        long = []
        for row, encoding in zip(rows, encodings, strict=True):
            if len(encoding.ids) > max_tokens:
                # Cut where the first token that does not fit starts; a character that it shares
                # with the previous token does not fit either.
                kept[row], in_a_word = _shortened(kept[row], encoding.offsets[max_tokens][0])
                long.append(row)
                within_word |= {row} if in_a_word else set()
        n_cut = n_cut or len(long)
        rows = long  # part of a word may take more tokens alone, so these are checked again
    return kept, n_cut, len(within_word)


def _shortened(title: str, end: int) -> tuple[str, bool]:
    """Return the whole words of title[:end] and False, or title[:end] and True if it has none."""
    if title[end].isspace() or title[end - 1].isspace():
        return title[:end].rstrip(), False
    words, _, _ = title[:end].rpartition(" ")
    return (words, False) if words else (title[:end], True)


def _number_duplicates(
    identifiers: list[str], numbers: Int[np.ndarray, " N"], vocabulary: Vocabulary
) -> int:
    """Append numbers in place until no two have the same tokens; return how many got one."""
    tokens = [tuple(one) for one in vocabulary.encode(identifiers)]
    numbered: set[int] = set()
    while True:
        holders: dict[tuple[int, ...], list[int]] = {}
        for row, one in enumerate(tokens):
            holders.setdefault(one, []).append(row)
        rows = [
            row
            for group in holders.values()
            if len(group) > 1
            for row in group
            if row not in numbered
        ]
        if not rows:
            return len(numbered)
        for row in rows:
            identifiers[row] = f"{identifiers[row]} {numbers[row]}"
        encoded = vocabulary.encode([identifiers[row] for row in rows])
        for row, one in zip(rows, encoded, strict=True):
            tokens[row] = tuple(one)
        numbered |= set(rows)
