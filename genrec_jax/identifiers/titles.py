"""Items written by their titles: text of the log in place of `item_1234`.

A title becomes a name in four steps:

1. *Cleaned*: Unicode NFC; control characters and runs of white space become one space, none is left
   at either end; the case stays. The brackets of what looks like a special token (`<mask>`, `</s>`)
   become spaces, or the tokenizer would read it as one.
2. *Cut* to at most `max_tokens` tokens at the end of a word. Where not even the first word fits (a
   title in Chinese may be one word), that word is cut between two characters.
3. *Without a title*, or with nothing left of one, an item is written `item_N`, N its number.
4. *Made unique*: of items with the same tokens every one gets its number behind its name, ` N`.
   Where that makes the name of another item, the other gets its number too, until all differ. Two
   numbered names never meet, since their last words differ; so this ends.

The numbers are those of the `random` indexing and tell nothing. A number comes on top of
`max_tokens`.
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
class TitleNames:
    """The names of all items, in their order, and what it took to make them."""

    names: tuple[str, ...]
    untitled: int  # written `item_N`
    cut: int  # longer than `max_tokens`
    cut_in_a_word: int  # of these, cut between two characters
    numbered: int  # with the item's number behind the title

    def summary(self) -> str:
        """One line for the log."""
        return (
            f"{len(self.names)} items are written by their titles: {self.untitled} have none and "
            f"are written item_N, {self.cut} are cut ({self.cut_in_a_word} inside a word), "
            f"{self.numbered} have their number behind them, since others have the same name"
        )


def clean_title(title: str | None) -> str:
    """Step 1; the empty string where there is no title."""
    text = _SPECIAL.sub(
        lambda found: f" {found[0][1:-1]} ", unicodedata.normalize("NFC", title or "")
    )
    return _NOT_TEXT.sub(" ", text).strip()


def title_names(
    titles: Sequence[str],
    numbers: Int[np.ndarray, " N"],
    vocabulary: Vocabulary,
    max_tokens: int,
) -> TitleNames:
    """Steps 2 to 4.

    Args:
        titles: cleaned; the empty string for an item without one.
        numbers: of the items, all different.
        vocabulary: that the names will be tokenized with.
        max_tokens: of a name, before a number is put behind it; at least 8.
    """
    kept, cut, cut_in_a_word = _cut(titles, vocabulary, max_tokens)
    names = [name or f"item_{number}" for name, number in zip(kept, numbers, strict=True)]
    numbered = _number_the_same(names, numbers, vocabulary)
    return TitleNames(
        names=tuple(names),
        untitled=sum(not title for title in titles),
        cut=cut,
        cut_in_a_word=cut_in_a_word,
        numbered=numbered,
    )


def _cut(
    titles: Sequence[str], vocabulary: Vocabulary, max_tokens: int
) -> tuple[list[str], int, int]:
    """Titles of at most `max_tokens` tokens, how many were cut, and how many inside a word."""
    kept = list(titles)
    inside: set[int] = set()
    rows: Sequence[int] = range(len(kept))
    ever = 0
    while rows:
        encodings = vocabulary.tokenizer.encode_batch(
            [kept[row] for row in rows], add_special_tokens=False
        )
        long = []
        for row, encoding in zip(rows, encodings, strict=True):
            if len(encoding.ids) > max_tokens:
                # Where the first token begins that does not fit; a character that it shares with
                # the token before does not fit either.
                kept[row], in_a_word = _shortened(kept[row], encoding.offsets[max_tokens][0])
                long.append(row)
                inside |= {row} if in_a_word else set()
        ever = ever or len(long)
        rows = long  # half a word may take more tokens than it took as a part: look again
    return kept, ever, len(inside)


def _shortened(title: str, end: int) -> tuple[str, bool]:
    """The whole words of title[:end], or title[:end] itself where that is less than one word."""
    if title[end].isspace() or title[end - 1].isspace():
        return title[:end].rstrip(), False
    words, _, _ = title[:end].rpartition(" ")
    return (words, False) if words else (title[:end], True)


def _number_the_same(
    names: list[str], numbers: Int[np.ndarray, " N"], vocabulary: Vocabulary
) -> int:
    """Put numbers behind `names`, in place, until no two have the same tokens; how many got one."""
    tokens = [tuple(one) for one in vocabulary.encode(names)]
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
            names[row] = f"{names[row]} {numbers[row]}"
        for row, one in zip(rows, vocabulary.encode([names[row] for row in rows]), strict=True):
            tokens[row] = tuple(one)
        numbered |= set(rows)
