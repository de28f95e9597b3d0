"""Identifiers → tokens: BART's tokenizer from a folder, or a small one trained on the identifiers.

Both treat every identifier as a word within a text, with the leading space that byte-level BPE
folds into the first token (`Ġitem`), so that an identifier has the same tokens wherever it occurs.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from genrec_jax.core.errors import InputError

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_SYMBOL = re.compile(r"<[a-z]_[0-9]+>")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and the ids of its special tokens.

    The symbols that `with_symbols` adds come last, from `n_words` on; no checkpoint has them.
    """

    tokenizer: Tokenizer
    bos: int
    pad: int
    eos: int
    mask: int
    n_words: int  # tokens without added symbols
    size: int  # all tokens, and so the rows of the token embedding

    def encode(self, identifiers: list[str]) -> list[list[int]]:
        """Return the tokens of each identifier within a text, without special tokens."""
        encodings = self.tokenizer.encode_batch(identifiers, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, tokens: Int[np.ndarray, " S"]) -> str:
        """Return the text of some tokens, without special tokens."""
        return self.tokenizer.decode([int(token) for token in tokens]).strip()


def train_tokenizer(identifiers: list[str], vocab_size: int, by_word: bool = False) -> Vocabulary:
    """Train a byte-pair tokenizer of about `vocab_size` tokens on a catalogue's identifiers.

    Args:
        identifiers: all texts that will be tokenized, so that all their bytes are known.
        vocab_size: the size of the vocabulary; larger if more bytes than that occur.
        by_word: whether merges stay within a word, a number or a run of punctuation, as in BART's
            tokenizer, so that a title that is cut after a word keeps its tokens. Otherwise they may
            span a whole identifier (`Ġitem_12`).
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=by_word)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(identifiers, trainer)
    return _vocabulary(tokenizer, "the trained tokenizer")


def with_symbols(vocabulary: Vocabulary, symbols: list[str]) -> Vocabulary:
    """Return a copy of the tokenizer with one more token for each symbol, such as `<a_5>`.

    A symbol absorbs the space before it, as `<mask>` does in BART.
    """
    tokenizer = Tokenizer.from_str(
        vocabulary.tokenizer.to_str()
    )  # a copy: the next line changes it
    tokenizer.add_tokens([AddedToken(one, lstrip=True, normalized=False) for one in symbols])
    return _vocabulary(tokenizer, "the tokenizer with the symbols of codes")


def load_bart_tokenizer(folder: Path) -> Vocabulary:
    """Load the tokenizer of a Hugging Face folder, with a space before the first word too.

    Raises:
        InputError: the folder has neither tokenizer.json nor vocab.json and merges.txt.
    """
    has = {name: (folder / name).is_file() for name in ("vocab.json", "merges.txt")}
    if not (folder / "tokenizer.json").is_file() and not all(has.values()):
        missing = ", ".join(name for name, exists in has.items() if not exists)
        raise InputError(
            f"{folder}: found no tokenizer ({missing} missing), expected tokenizer.json, or "
            "vocab.json and merges.txt"
        )
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # PyTorch is not needed
    from transformers import BartTokenizer  # imported here because it is slow

    try:
        tokenizer = BartTokenizer.from_pretrained(str(folder), add_prefix_space=True)
    except Exception as error:  # the library raises various exceptions for damaged files
        raise InputError(f"{folder}: the tokenizer's files cannot be read: {error}") from None
    _check_merges(tokenizer.backend_tokenizer, folder)
    return _vocabulary(tokenizer.backend_tokenizer, str(folder))


def _check_merges(tokenizer: Tokenizer, folder: Path) -> None:
    """Raise InputError for a truncated merges.txt, which the library reads without an error.

    Every longer token results from a merge, except special tokens and a few unused words: 9 of
    BART's 50,265 tokens.
    """
    model = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    made = {"".join(pair) for pair in merges}
    unmade = [token for token in model["vocab"] if len(token) > 1 and token not in made]
    if len(unmade) > max(32, len(model["vocab"]) // 1000):
        raise InputError(
            f"{folder}: merges.txt produces {len(made)} tokens, without {len(unmade)} of "
            f"vocab.json (such as {unmade[-1]!r}), expected nearly all: the file is truncated or "
            "belongs to another vocabulary"
        )


def save_tokenizer(vocabulary: Vocabulary, path: Path) -> None:
    """Write a tokenizer as one JSON file."""
    vocabulary.tokenizer.save(str(path))


def read_tokenizer(path: Path) -> Vocabulary:
    """Read what `save_tokenizer` wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return _vocabulary(Tokenizer.from_file(str(path)), str(path))
    except InputError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{path}: cannot be read as a tokenizer: {error}") from None


def _vocabulary(tokenizer: Tokenizer, source: str) -> Vocabulary:
    found = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    ids = {token: token_id for token, token_id in found.items() if token_id is not None}
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(f"{source}: the tokenizer has no special tokens {', '.join(missing)}")
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    symbols = [token_id for token_id, token in added.items() if _SYMBOL.fullmatch(token.content)]
    return Vocabulary(
        tokenizer=tokenizer,
        bos=ids["<s>"],
        pad=ids["<pad>"],
        eos=ids["</s>"],
        mask=ids["<mask>"],
        n_words=min(symbols, default=size),
        size=size,
    )
