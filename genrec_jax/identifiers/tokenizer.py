"""Tokenizers of identifiers: BART's from a folder, or a small one trained on the identifiers.

Both encode every identifier with a leading space, which byte-level BPE folds into the first token
(`Ġitem`), so that an identifier has the same tokens wherever it occurs in a text.
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

    The symbols that `with_symbols` adds have the ids from `n_words` on, which no checkpoint has.
    """

    tokenizer: Tokenizer
    bos: int
    pad: int
    eos: int
    mask: int
    n_words: int  # number of tokens without added symbols
    size: int  # number of all tokens

    def encode(self, identifiers: list[str]) -> list[list[int]]:
        """Return the tokens of each identifier as it occurs in a text, without <s> and </s>."""
        encodings = self.tokenizer.encode_batch(identifiers, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, tokens: Int[np.ndarray, " S"]) -> str:
        """Return the text of a token sequence, without special tokens."""
        return self.tokenizer.decode([int(token) for token in tokens]).strip()


def train_tokenizer(identifiers: list[str], vocab_size: int, by_word: bool = False) -> Vocabulary:
    """Train a byte-pair tokenizer of about `vocab_size` tokens on a catalogue's identifiers.

    Args:
        identifiers: all texts that will be tokenized, so that the vocabulary has all their bytes.
        vocab_size: the size of the vocabulary, exceeded if the texts have more distinct bytes.
        by_word: restrict merges to words, numbers and runs of punctuation, as in BART's tokenizer,
            so that a title that is cut after a word keeps its tokens. Otherwise a merge may span a
            whole identifier (`Ġitem_12`).
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
    """Return a copy of the tokenizer with an additional token for each symbol, such as `<a_5>`.

    A symbol absorbs the space before it, as `<mask>` does in BART.
    """
    # A copy, because add_tokens changes the tokenizer.
    tokenizer = Tokenizer.from_str(vocabulary.tokenizer.to_str())
    tokenizer.add_tokens([AddedToken(symbol, lstrip=True, normalized=False) for symbol in symbols])
    return _vocabulary(tokenizer, "the tokenizer with the symbols of codes")


def load_bart_tokenizer(folder: Path) -> Vocabulary:
    """Load BART's tokenizer from a Hugging Face folder, with a space before the first word too.

    Raises:
        InputError: the folder has neither tokenizer.json nor both vocab.json and merges.txt, or a
            file is damaged.
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

    Every token of several characters results from a merge, except special tokens and a few unused
    words (9 of BART's 50,265 tokens).
    """
    model = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    merged = {"".join(pair) for pair in merges}
    unmerged = [token for token in model["vocab"] if len(token) > 1 and token not in merged]
    if len(unmerged) > max(32, len(model["vocab"]) // 1000):
        raise InputError(
            f"{folder}: merges.txt produces {len(merged)} tokens, but not {len(unmerged)} tokens "
            f"of vocab.json (such as {unmerged[-1]!r}), expected nearly all of them; the file is "
            "truncated or belongs to another vocabulary"
        )


def save_tokenizer(vocabulary: Vocabulary, path: Path) -> None:
    """Write the tokenizer as one JSON file."""
    vocabulary.tokenizer.save(str(path))


def read_tokenizer(path: Path) -> Vocabulary:
    """Read the JSON file that `save_tokenizer` wrote.

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
    """Look up the special tokens and added symbols; `source` is the prefix of error messages."""
    maybe_ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    ids = {token: token_id for token, token_id in maybe_ids.items() if token_id is not None}
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(
            f"{source}: found a tokenizer without {', '.join(missing)}, expected these special "
            "tokens"
        )
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
