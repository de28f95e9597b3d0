"""All that turns users and items into tokens and back, built once and kept with the run."""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from genrec_jax.data.sequences import UserSequences
from genrec_jax.errors import InputError
from genrec_jax.identifiers.indexing import Indexing
from genrec_jax.identifiers.token_table import TokenTable, build_token_table
from genrec_jax.identifiers.tokenizer import Vocabulary, read_tokenizer, save_tokenizer
from genrec_jax.identifiers.trie import Trie, build_trie

ARRAYS = "identifiers.npz"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Catalogue:
    """The users and items of a dataset, how they are written, and their tokens."""

    user_ids: np.ndarray  # [U] as the dataset file writes them
    item_ids: np.ndarray  # [N]
    indexing: Indexing
    vocabulary: Vocabulary
    table: TokenTable
    trie: Trie

    @classmethod
    def build(
        cls, sequences: UserSequences, indexing: Indexing, vocabulary: Vocabulary
    ) -> "Catalogue":
        table = build_token_table(vocabulary, indexing.item_names(), indexing.user_names())
        trie = build_trie(table.item_tokens, table.item_lengths, table.eos)
        return cls(sequences.user_ids, sequences.item_ids, indexing, vocabulary, table, trie)

    def save(self, folder: Path) -> None:
        """The numbering, the tokenizer and the token table; the trie follows from the table."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tokenizer(self.vocabulary, folder / TOKENIZER)
        np.savez_compressed(
            folder / ARRAYS,
            kind=self.indexing.kind,
            user_ids=self.user_ids,
            item_ids=self.item_ids,
            user_numbers=self.indexing.user_numbers,
            item_numbers=self.indexing.item_numbers,
            tokens=self.table.tokens,
            lengths=self.table.lengths,
        )

    @classmethod
    def load(cls, folder: Path) -> "Catalogue":
        """What `save` wrote.

        Raises:
            InputError: a file is missing or damaged.
        """
        path = folder / ARRAYS
        try:
            with np.load(path) as arrays:
                saved = {name: arrays[name] for name in arrays.files}
            indexing = Indexing(str(saved["kind"]), saved["user_numbers"], saved["item_numbers"])
            names = (saved["tokens"], saved["lengths"], len(saved["item_ids"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InputError(f"{path}: cannot be read as a run's identifiers: {error}") from None
        vocabulary = read_tokenizer(folder / TOKENIZER)
        table = TokenTable(*names, bos=vocabulary.bos, pad=vocabulary.pad, eos=vocabulary.eos)
        trie = build_trie(table.item_tokens, table.item_lengths, table.eos)
        return cls(saved["user_ids"], saved["item_ids"], indexing, vocabulary, table, trie)

    def check_same_dataset(self, sequences: UserSequences) -> None:
        """Raises InputError if the run was trained on other users or items."""
        for what, ours, theirs in (
            ("users", self.user_ids, sequences.user_ids),
            ("items", self.item_ids, sequences.item_ids),
        ):
            if not np.array_equal(ours, theirs):
                raise InputError(
                    f"dataset {sequences.name}: found {len(theirs)} {what}, expected the run's "
                    f"{len(ours)} {what} with the same ids in the same order"
                )
