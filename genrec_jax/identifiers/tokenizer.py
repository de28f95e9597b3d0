"""Names → tokens: BART's tokenizer from a folder, or a small one trained on the names themselves.

Both write every name as a word inside a sentence, with the leading space that byte-level BPE folds
into the first token (`Ġitem`), so that a name has the same tokens wherever it stands.
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
    """A tokenizer and the ids of its special tokens. `size` rows of embeddings are needed.

    The tokens that `with_symbols` added come last, from `n_words` on: no checkpoint knows them.
    """

    tokenizer: Tokenizer
    bos: int
    pad: int
    eos: int
    mask: int
    n_words: int
    size: int

    def encode(self, names: list[str]) -> list[list[int]]:
        """The tokens of each name as it stands inside a sentence, without special tokens."""
        encodings = self.tokenizer.encode_batch(names, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, tokens: Int[np.ndarray, " S"]) -> str:
        """The text of some tokens, special tokens left out."""
        return self.tokenizer.decode([int(token) for token in tokens]).strip()


def train_tokenizer(names: list[str], vocab_size: int, by_word: bool = False) -> Vocabulary:
    """A byte-pair tokenizer of at most `vocab_size` tokens, trained on the catalogue's own names.

    Args:
        names: all that it will ever write, so that it knows all their bytes.
        vocab_size: the bytes that occur are tokens too, even if there are more.
        by_word: as BART's, merges stay inside a word, a number or a run of signs, so that a title
            that is cut behind a word keeps its tokens. If not, they may span a whole name
            (`Ġitem_12`).
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=by_word)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(names, trainer)
    return _vocabulary(tokenizer, "the trained tokenizer")


def with_symbols(vocabulary: Vocabulary, symbols: list[str]) -> Vocabulary:
    """The same and a token for each of `symbols`, which look like `<a_5>`, behind all others.

    A symbol takes the space before it along, as `<mask>` does in BART.
    """
    tokenizer = Tokenizer.from_str(
        vocabulary.tokenizer.to_str()
    )  # a copy: the next line changes it
    tokenizer.add_tokens([AddedToken(one, lstrip=True, normalized=False) for one in symbols])
    return _vocabulary(tokenizer, "the tokenizer with the symbols of codes")


def load_bart_tokenizer(folder: Path) -> Vocabulary:
    """The tokenizer of a Hugging Face folder, which puts a space before the first word too.

    Raises:
        InputError: the folder has neither tokenizer.json nor vocab.json and merges.txt.
    """
    has = {name: (folder / name).is_file() for name in ("vocab.json", "merges.txt")}
    if not (folder / "tokenizer.json").is_file() and not all(has.values()):
        missing = ", ".join(name for name, there in has.items() if not there)
        raise InputError(
            f"{folder}: no tokenizer here (missing: {missing}), expected tokenizer.json, or "
            "vocab.json and merges.txt"
        )
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch; we do not
    from transformers import BartTokenizer  # here: its import takes longer than the rest

    try:
        tokenizer = BartTokenizer.from_pretrained(str(folder), add_prefix_space=True)
    except Exception as error:  # the libraries below raise anything on a damaged file
        raise InputError(f"{folder}: the tokenizer's files cannot be read: {error}") from None
    _check_merges(tokenizer.backend_tokenizer, folder)
    return _vocabulary(tokenizer.backend_tokenizer, str(folder))


def _check_merges(tokenizer: Tokenizer, folder: Path) -> None:
    """A merges.txt that was cut short is read without a word, and splits names another way.

    Every longer token is made by a merge, but for special tokens and a few words that nothing
    writes: 9 of BART's 50,265.
    """
    model = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    made = {"".join(pair) for pair in merges}
    unmade = [token for token in model["vocab"] if len(token) > 1 and token not in made]
    if len(unmade) > max(32, len(model["vocab"]) // 1000):
        raise InputError(
            f"{folder}: merges.txt makes {len(made)} tokens, and {len(unmade)} of vocab.json (such "
            f"as {unmade[-1]!r}) are made by none, expected nearly all: the file is cut short or "
            "belongs to another vocabulary"
        )


def save_tokenizer(vocabulary: Vocabulary, path: Path) -> None:
    vocabulary.tokenizer.save(str(path))


def read_tokenizer(path: Path) -> Vocabulary:
    """What `save_tokenizer` wrote.

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
        raise InputError(f"{source}: the tokenizer lacks the special tokens {', '.join(missing)}")
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
