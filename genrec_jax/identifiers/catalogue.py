"""All that turns users and items into tokens and back, built once and kept with the run."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Int

from genrec_jax.core.disk import writing
from genrec_jax.core.errors import InputError
from genrec_jax.core.processes import by_the_first
from genrec_jax.data.identity import DatasetId, identify
from genrec_jax.data.prepared import Names
from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.indexing import Indexing
from genrec_jax.identifiers.log_ids import LogIds, load_names, save_names
from genrec_jax.identifiers.token_table import TokenTable, build_token_table
from genrec_jax.identifiers.tokenizer import Vocabulary, read_tokenizer, save_tokenizer
from genrec_jax.identifiers.trie import Trie, build_trie

ARRAYS = "identifiers.npz"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Tokenized:
    """The identifiers of users and items as tokens."""

    vocabulary: Vocabulary
    table: TokenTable
    trie: Trie  # of the items

    @classmethod
    def of_table(cls, vocabulary: Vocabulary, table: TokenTable) -> "Tokenized":
        """Build the trie of the items of a token table."""
        trie = build_trie(table.item_tokens, table.item_lengths, table.eos)
        return cls(vocabulary, table, trie)


@dataclass(frozen=True)
class Catalogue:
    """The users and items of a dataset, how they are written, and their tokens."""

    user_ids: np.ndarray  # [U] the dataset's numbers
    item_ids: np.ndarray  # [N]
    indexing: Indexing
    text: Tokenized | None  # None: of a model that writes no identifiers
    names: Names | None = None  # the log's own ids and titles, of a prepared dataset
    dataset: DatasetId | None = None  # always there in a run

    @classmethod
    def build(
        cls,
        sequences: UserSequences,
        indexing: Indexing,
        vocabulary: Vocabulary | None,
        names: Names | None = None,
        dataset: DatasetId | None = None,
    ) -> "Catalogue":
        """Tokenize every name and build the trie of the items.

        Args:
            sequences: the dataset, perhaps shortened by `config.data.drop_last`.
            indexing: how its users and items are written.
            vocabulary: the tokenizer; None for a model that writes no identifiers.
            names: the log's own ids and titles, of a prepared dataset.
            dataset: the identity of the whole dataset; None: `sequences` are all of it.
        """
        text = None
        if vocabulary is not None:
            table = build_token_table(vocabulary, indexing.item_names(), indexing.user_names())
            text = Tokenized.of_table(vocabulary, table)
        ids = (sequences.user_ids, sequences.item_ids)
        dataset = dataset or identify(sequences, names)
        return cls(*ids, indexing, text, names, dataset)

    @property
    def n_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """N."""
        return len(self.item_ids)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer; only for a model that writes identifiers, as `table` and `trie`."""
        return self._tokenized.vocabulary

    @property
    def table(self) -> TokenTable:
        """The tokens of every identifier."""
        return self._tokenized.table

    @property
    def trie(self) -> Trie:
        """The trie of the items' tokens."""
        return self._tokenized.trie

    @property
    def _tokenized(self) -> Tokenized:
        if self.text is None:
            raise ValueError("the model of this run writes no identifiers")
        return self.text

    @cached_property
    def users(self) -> LogIds:
        """The users as the outside calls them: the log's ids, or else the dataset's numbers."""
        return LogIds("user", self.names.user_ids if self.names else self.user_ids)

    @cached_property
    def items(self) -> LogIds:
        """The same for the items."""
        return LogIds("item", self.names.item_ids if self.names else self.item_ids)

    def titles(self, rows: Int[np.ndarray, " m"]) -> list[str | None]:
        """The titles of item rows, None for items without one."""
        if self.names is None or not self.names.has_titles:
            return [None] * len(rows)
        return [self.names.titles[row] for row in rows]

    @by_the_first
    def save(self, folder: Path) -> None:
        """Write all but the trie, which follows from the token table.

        Raises:
            DiskError: the folder cannot be written.
        """
        with writing(folder):
            self._save(folder)

    def _save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self.names is not None:
            save_names(folder, self.names, self.indexing.item_texts)
        tokens = {}
        if self.text is not None:
            save_tokenizer(self.vocabulary, folder / TOKENIZER)
            tokens = {"tokens": self.table.tokens, "lengths": self.table.lengths}
        codes = {} if self.indexing.codes is None else {"codes": self.indexing.codes}
        assert self.dataset is not None  # of `build`
        arrays: dict[str, Any] = {
            "kind": self.indexing.kind,
            "user_ids": self.user_ids,
            "item_ids": self.item_ids,
            "user_numbers": self.indexing.user_numbers,
            "item_numbers": self.indexing.item_numbers,
            **tokens,
            **codes,
            "dataset_name": self.dataset.name,
            "dataset_sha256": self.dataset.sha256,
        }
        np.savez_compressed(folder / ARRAYS, **arrays)

    @classmethod
    def load(cls, folder: Path) -> "Catalogue":
        """What `save` wrote.

        Raises:
            InputError: a file is missing or damaged.
        """
        path = folder / ARRAYS
        names, texts = load_names(folder)
        try:
            with np.load(path) as arrays:
                saved = {name: arrays[name] for name in arrays.files}
            numbers = (saved["user_numbers"], saved["item_numbers"])
            indexing = Indexing(str(saved["kind"]), *numbers, texts, saved.get("codes"))
            rows = None
            if "tokens" in saved:
                rows = (saved["tokens"], saved["lengths"], len(saved["item_ids"]))
            dataset = DatasetId(str(saved["dataset_name"]), str(saved["dataset_sha256"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InputError(f"{path}: cannot be read as a run's identifiers: {error}") from None
        text = None
        if rows is not None:
            vocabulary = read_tokenizer(folder / TOKENIZER)
            ends = {"bos": vocabulary.bos, "pad": vocabulary.pad, "eos": vocabulary.eos}
            text = Tokenized.of_table(vocabulary, TokenTable(*rows, **ends))
        ids = (saved["user_ids"], saved["item_ids"])
        if names and (len(names.user_ids), len(names.item_ids)) != tuple(map(len, ids)):
            raise InputError(f"{path}: found other users or items than in the files beside it")
        return cls(*ids, indexing, text, names, dataset)

    def check_same_dataset(self, sequences: UserSequences, names: Names | None = None) -> None:
        """Raises InputError if the run was trained on other users or items.

        Args:
            sequences: of the dataset.
            names: of the dataset, which prepared ones are told apart by.
        """
        for what, ours, theirs in (
            ("users", self.user_ids, sequences.user_ids),
            ("items", self.item_ids, sequences.item_ids),
        ):
            if not np.array_equal(ours, theirs):
                raise InputError(
                    f"dataset {sequences.name}: found {len(theirs)} {what}, expected the run's "
                    f"{len(ours)} {what} with the same ids in the same order"
                )
        if names is None or self.names is None:
            return
        for what, ours, theirs in (
            ("users", self.names.user_ids, names.user_ids),
            ("items", self.names.item_ids, names.item_ids),
        ):
            if ours != theirs:
                raise InputError(
                    f"dataset {sequences.name}: found {what} with other ids in the log than the "
                    "run's, expected the dataset that it was trained on"
                )
