"""The users and items of a run with their ids, identifiers, tokens and trie."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Int

from genrec_jax.core.disk import writing
from genrec_jax.core.errors import InputError
from genrec_jax.core.processes import on_process_0
from genrec_jax.data.identity import DatasetId, identify
from genrec_jax.data.prepared import LogMetadata
from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.indexing import Indexing
from genrec_jax.identifiers.log_ids import LogIds, load_log_metadata, save_log_metadata
from genrec_jax.identifiers.token_table import TokenTable, build_token_table
from genrec_jax.identifiers.tokenizer import Vocabulary, read_tokenizer, save_tokenizer
from genrec_jax.identifiers.trie import Trie, build_trie

ARRAYS = "identifiers.npz"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Tokenized:
    """The tokenized identifiers of users and items."""

    vocabulary: Vocabulary
    table: TokenTable  # of items and users
    trie: Trie  # of items only

    @classmethod
    def of_table(cls, vocabulary: Vocabulary, table: TokenTable) -> "Tokenized":
        """Build the trie of the items in a token table."""
        trie = build_trie(table.item_tokens, table.item_lengths, table.eos)
        return cls(vocabulary, table, trie)


@dataclass(frozen=True)
class Catalogue:
    """The users and items of a dataset, with their identifiers and tokens."""

    user_ids: np.ndarray  # [U] the user ids in the dataset
    item_ids: np.ndarray  # [N] the item ids in the dataset
    indexing: Indexing
    text: Tokenized | None  # None for a model that reads no identifiers
    log_metadata: LogMetadata | None = None  # the log's own ids and titles, if prepared
    dataset: DatasetId | None = None  # the dataset's name and hash, never None in a run

    @classmethod
    def build(
        cls,
        sequences: UserSequences,
        indexing: Indexing,
        vocabulary: Vocabulary | None,
        log_metadata: LogMetadata | None = None,
        dataset: DatasetId | None = None,
    ) -> "Catalogue":
        """Tokenize all identifiers and build the item trie.

        Args:
            sequences: the dataset, possibly shortened by `config.data.drop_last`.
            indexing: the identifiers of its users and items.
            vocabulary: the tokenizer; None for a model that reads no identifiers.
            log_metadata: the log's own ids and titles, for a prepared dataset.
            dataset: the name and hash of the dataset before it was shortened; None computes them
                from `sequences`.

        Raises:
            InputError: two items have the same tokens, or the tokenizer lacks a character.
        """
        text = None
        if vocabulary is not None:
            table = build_token_table(
                vocabulary, indexing.item_identifiers(), indexing.user_identifiers()
            )
            text = Tokenized.of_table(vocabulary, table)
        ids = (sequences.user_ids, sequences.item_ids)
        dataset = dataset or identify(sequences, log_metadata)
        return cls(*ids, indexing, text, log_metadata, dataset)

    @property
    def n_users(self) -> int:
        """U, the number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """N, the number of items."""
        return len(self.item_ids)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer. Raises ValueError if the model reads no identifiers."""
        return self._tokenized.vocabulary

    @property
    def table(self) -> TokenTable:
        """The tokens of all identifiers. Raises ValueError if the model reads no identifiers."""
        return self._tokenized.table

    @property
    def trie(self) -> Trie:
        """The trie of the items' tokens. Raises ValueError if the model reads no identifiers."""
        return self._tokenized.trie

    @property
    def _tokenized(self) -> Tokenized:
        if self.text is None:
            raise ValueError("the model of this run reads no identifiers, so nothing was tokenized")
        return self.text

    @cached_property
    def users(self) -> LogIds:
        """The external user ids: the log's own if the dataset was prepared, else the dataset's."""
        return LogIds("user", self.log_metadata.user_ids if self.log_metadata else self.user_ids)

    @cached_property
    def items(self) -> LogIds:
        """The external item ids: the log's own if the dataset was prepared, else the dataset's."""
        return LogIds("item", self.log_metadata.item_ids if self.log_metadata else self.item_ids)

    def titles(self, rows: Int[np.ndarray, " m"]) -> list[str | None]:
        """Return the title of each item row, None for items without a title."""
        if self.log_metadata is None or not self.log_metadata.has_titles:
            return [None] * len(rows)
        return [self.log_metadata.titles[row] for row in rows]

    @on_process_0
    def save(self, folder: Path) -> None:
        """Save the catalogue without its trie, which `load` rebuilds from the token table.

        Raises:
            DiskError: the folder cannot be written.
        """
        with writing(folder):
            self._save(folder)

    def _save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if self.log_metadata is not None:
            save_log_metadata(folder, self.log_metadata, self.indexing.item_texts)
        tokens = {}
        if self.text is not None:
            save_tokenizer(self.vocabulary, folder / TOKENIZER)
            tokens = {"tokens": self.table.tokens, "lengths": self.table.lengths}
        codes = {} if self.indexing.codes is None else {"codes": self.indexing.codes}
        assert self.dataset is not None  # set by `build`
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
        """Load a catalogue from the folder that `save` wrote.

        Raises:
            InputError: a file is missing or damaged.
        """
        path = folder / ARRAYS
        log_metadata, texts = load_log_metadata(folder)
        try:
            with np.load(path) as arrays:
                saved = {name: arrays[name] for name in arrays.files}
            numbers = (saved["user_numbers"], saved["item_numbers"])
            indexing = Indexing(str(saved["kind"]), *numbers, texts, saved.get("codes"))
            table = None
            if "tokens" in saved:
                table = (saved["tokens"], saved["lengths"], len(saved["item_ids"]))
            dataset = DatasetId(str(saved["dataset_name"]), str(saved["dataset_sha256"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InputError(f"{path}: cannot be read as a run's identifiers: {error}") from None
        text = None
        if table is not None:
            vocabulary = read_tokenizer(folder / TOKENIZER)
            special = {"bos": vocabulary.bos, "pad": vocabulary.pad, "eos": vocabulary.eos}
            text = Tokenized.of_table(vocabulary, TokenTable(*table, **special))
        ids = (saved["user_ids"], saved["item_ids"])
        if log_metadata is not None:
            sizes = len(log_metadata.user_ids), len(log_metadata.item_ids)
            if sizes != tuple(map(len, ids)):
                raise InputError(
                    f"{path}: found {len(ids[0])} users and {len(ids[1])} items, expected "
                    f"{sizes[0]} and {sizes[1]} as in users.parquet and items.parquet"
                )
        return cls(*ids, indexing, text, log_metadata, dataset)

    def check_same_dataset(
        self, sequences: UserSequences, log_metadata: LogMetadata | None = None
    ) -> None:
        """Check that the run was trained on this dataset's users and items.

        Args:
            sequences: the dataset to compare with the run's.
            log_metadata: the log's own ids, if the dataset was prepared, since different logs may
                have the same numbers.

        Raises:
            InputError: the run was trained on other users or items.
        """
        for kind, expected, found in (
            ("users", self.user_ids, sequences.user_ids),
            ("items", self.item_ids, sequences.item_ids),
        ):
            if not np.array_equal(expected, found):
                raise InputError(
                    f"dataset {sequences.name}: found {len(found)} {kind}, expected the run's "
                    f"{len(expected)} {kind} with the same ids in the same order"
                )
        if log_metadata is None or self.log_metadata is None:
            return
        for kind, expected, found in (
            ("users", self.log_metadata.user_ids, log_metadata.user_ids),
            ("items", self.log_metadata.item_ids, log_metadata.item_ids),
        ):
            if expected != found:
                raise InputError(
                    f"dataset {sequences.name}: found {kind} whose ids in the log differ from the "
                    "run's, expected the dataset that the run was trained on"
                )
