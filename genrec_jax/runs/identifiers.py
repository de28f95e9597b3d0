"""The identifiers that a config describes: numbers, titles or codes, and their tokens."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from genrec_jax.core.errors import InputError
from genrec_jax.data.datasets import named_attributes
from genrec_jax.data.identity import identify
from genrec_jax.data.prepared import Names
from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.codes import code_symbols, likeness
from genrec_jax.identifiers.indexing import CODE_KINDS, Indexing, coded_indexing, make_indexing
from genrec_jax.identifiers.item_vectors import collaborative_vectors, side_by_side, text_vectors
from genrec_jax.identifiers.titles import clean_title, title_names
from genrec_jax.identifiers.tokenizer import (
    Vocabulary,
    train_tokenizer,
    with_symbols,
)
from genrec_jax.models import load_family
from genrec_jax.models.run_config import RunConfig, WithIdentifiers
from genrec_jax.runs.dataset import load_names, whole_sequences

log = logging.getLogger(__name__)


def build_catalogue(
    config: RunConfig, sequences: UserSequences, pretrained: Path | None
) -> Catalogue:
    """Number, name and tokenize every user and item.

    Args:
        config: of the run.
        sequences: its dataset.
        pretrained: the folder of a pretrained model's tokenizer; None: train one on the names, if
            the model writes any.
    """
    names, vocabulary = load_names(config.data), None
    if isinstance(config, WithIdentifiers):
        indexing, vocabulary = make_names(config, sequences, names, pretrained)
    else:  # the numbers are for people alone
        indexing = make_indexing("published", sequences, 0)
    # Whose ids these are does not depend on how much of every user's history is used.
    whole = whole_sequences(config.data) if config.data.drop_last else sequences
    return Catalogue.build(sequences, indexing, vocabulary, names, identify(whole, names))


def make_names(
    config: WithIdentifiers, sequences: UserSequences, names: Names | None, pretrained: Path | None
) -> tuple[Indexing, Vocabulary]:
    """How every user and item is written, and the tokenizer; arguments as of `build_catalogue`.

    Raises:
        InputError: items are to be written by titles, or by codes from texts, that the dataset
            does not have.
    """
    if config.indexing in CODE_KINDS:
        return make_codes(config, sequences, names, pretrained)
    indexing = make_indexing(config.indexing, sequences, config.indexing_seed)
    titles: list[str] = []
    if config.indexing == "title":
        titles = [clean_title(title) for title in (names.titles if names else [])]
        if not any(titles):
            raise InputError(
                f"config.indexing: found 'title', but {sequences.name} has no titles, expected a "
                "prepared dataset with some (python -m genrec_jax prepare)"
            )
    if pretrained is not None:
        vocabulary = load_family(config.model.family).vocabulary(pretrained)
    else:
        written = indexing.item_names()
        written = [title or name for title, name in zip(titles or written, written, strict=True)]
        vocabulary = train_tokenizer(
            written + indexing.user_names(), config.model.vocab_size, by_word=bool(titles)
        )
    if titles:
        made = title_names(titles, indexing.item_numbers, vocabulary, config.title_tokens)
        log.info("%s", made.summary())
        indexing = dataclasses.replace(indexing, item_texts=made.names)
    return indexing, vocabulary


def make_codes(
    config: WithIdentifiers, sequences: UserSequences, names: Names | None, pretrained: Path | None
) -> tuple[Indexing, Vocabulary]:
    """The same for items that are written by codes."""
    vectors = code_vectors(config, sequences, names)
    indexing = coded_indexing(config.indexing, sequences, vectors, config.indexing_seed)
    vocabulary = (
        train_tokenizer(indexing.user_names(), config.model.vocab_size)
        if pretrained is None
        else load_family(config.model.family).vocabulary(pretrained)
    )
    if vectors is not None and indexing.codes is not None:
        like = [likeness(vectors, indexing.codes, symbols) for symbols in (0, 1, 2)]
        log.info(
            "%d items have %s codes, %d of them by chance, since nothing is known of these; the "
            "mean cosine of two items is %.3f, %.3f with the same first symbol, %.3f with two",
            len(vectors),
            indexing.kind,
            (~vectors.any(axis=1)).sum(),
            *like,
        )
    return indexing, with_symbols(vocabulary, code_symbols(sequences.n_items))


def code_vectors(
    config: WithIdentifiers, sequences: UserSequences, names: Names | None
) -> Float[np.ndarray, "N d"] | None:
    """What the codes of `config.indexing` are made from; None for those that chance makes.

    Raises:
        InputError: the dataset has neither titles nor attributes, and they are asked for.
    """
    codes, kind, seed = config.codes, config.indexing, config.indexing_seed
    if kind == "random_codes":
        return None
    by_users = by_texts = None
    if kind in ("collaborative", "combined"):
        by_users = collaborative_vectors(sequences, codes.dims, codes.window, seed)
    if kind in ("semantic", "combined"):
        titles, attributes = item_texts(config, sequences, names)
        by_texts = text_vectors(titles, attributes, codes.dims, seed)
    if by_users is None or by_texts is None:
        return by_texts if by_users is None else by_users
    return side_by_side(by_users, by_texts, codes.text_weight)


def item_texts(
    config: WithIdentifiers, sequences: UserSequences, names: Names | None
) -> tuple[Sequence[str | None], Sequence[Sequence[str] | None]]:
    """The titles and the attributes of every item."""
    if names is not None:
        titles, attributes = names.titles, names.attributes or [None] * sequences.n_items
    else:
        about = named_attributes(config.data.name, config.data.dir)
        titles = [None] * sequences.n_items
        attributes = [about.get(item) for item in sequences.item_ids.tolist()]
    if not any(titles) and not any(attributes):
        raise InputError(
            f"config.indexing: found {config.indexing!r}, but {sequences.name} has neither titles "
            "nor attributes, expected a prepared dataset with some (python -m genrec_jax "
            "prepare), or the file of a named dataset's attributes beside it"
        )
    return titles, attributes
