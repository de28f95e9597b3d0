"""Build the item and user identifiers of a config: numbers, titles or codes, and their tokens."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from genrec_jax.core.errors import InputError
from genrec_jax.data.datasets import named_attributes
from genrec_jax.data.identity import identify
from genrec_jax.data.prepared import LogMetadata
from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.codes import code_symbols, prefix_similarity
from genrec_jax.identifiers.indexing import CODE_KINDS, Indexing, coded_indexing, make_indexing
from genrec_jax.identifiers.item_vectors import collaborative_vectors, side_by_side, text_vectors
from genrec_jax.identifiers.titles import clean_title, title_identifiers
from genrec_jax.identifiers.tokenizer import (
    Vocabulary,
    train_tokenizer,
    with_symbols,
)
from genrec_jax.models import load_family
from genrec_jax.models.run_config import RunConfig, WithIdentifiers
from genrec_jax.runs.dataset import load_full_sequences, load_log_metadata

log = logging.getLogger(__name__)


def build_catalogue(
    config: RunConfig, sequences: UserSequences, pretrained: Path | None
) -> Catalogue:
    """Number, verbalise and tokenize every user and item.

    Args:
        config: the run's config.
        sequences: the run's dataset.
        pretrained: the folder with a pretrained tokenizer; None to train a tokenizer on the
            identifiers, if the model reads any.

    Raises:
        InputError: the dataset lacks the titles or attributes that `config.indexing` requires.
    """
    metadata, vocabulary = load_log_metadata(config.data), None
    if isinstance(config, WithIdentifiers):
        indexing, vocabulary = make_identifiers(config, sequences, metadata, pretrained)
    else:  # the model reads no identifiers; the numbers are only displayed
        indexing = make_indexing("published", sequences, 0)
    # The dataset's identity must not depend on how much of each history is used.
    full_sequences = load_full_sequences(config.data) if config.data.drop_last else sequences
    identity = identify(full_sequences, metadata)
    return Catalogue.build(sequences, indexing, vocabulary, metadata, identity)


def make_identifiers(
    config: WithIdentifiers,
    sequences: UserSequences,
    metadata: LogMetadata | None,
    pretrained: Path | None,
) -> tuple[Indexing, Vocabulary]:
    """Build the identifiers of all users and items, and the vocabulary that tokenizes them.

    Args:
        config: the run's config.
        sequences: the run's dataset.
        metadata: the dataset's original ids and titles; None if it has none.
        pretrained: the folder with a pretrained tokenizer; None to train one.

    Raises:
        InputError: the dataset lacks the titles or attributes that `config.indexing` requires.
    """
    if config.indexing in CODE_KINDS:
        return _make_codes(config, sequences, metadata, pretrained)
    indexing = make_indexing(config.indexing, sequences, config.indexing_seed)
    titles: list[str] = []
    if config.indexing == "title":
        titles = [clean_title(title) for title in (metadata.titles if metadata else [])]
        if not any(titles):
            raise InputError(
                f"config.indexing: found 'title', but {sequences.name} has no titles; expected a "
                "prepared dataset with titles (python -m genrec_jax prepare)"
            )
    if pretrained is not None:
        vocabulary = load_family(config.model.family).vocabulary(pretrained)
    else:
        numbered = indexing.item_identifiers()
        texts = [
            title or number for title, number in zip(titles or numbered, numbered, strict=True)
        ]
        vocabulary = train_tokenizer(
            texts + indexing.user_identifiers(), config.model.vocab_size, by_word=bool(titles)
        )
    if titles:
        made = title_identifiers(titles, indexing.item_numbers, vocabulary, config.title_tokens)
        log.info("%s", made.summary())
        indexing = dataclasses.replace(indexing, item_texts=made.identifiers)
    return indexing, vocabulary


def _make_codes(
    config: WithIdentifiers,
    sequences: UserSequences,
    metadata: LogMetadata | None,
    pretrained: Path | None,
) -> tuple[Indexing, Vocabulary]:
    """Build item codes and user numbers as identifiers, and a vocabulary for them."""
    vectors = code_vectors(config, sequences, metadata)
    indexing = coded_indexing(config.indexing, sequences, vectors, config.indexing_seed)
    vocabulary = (
        train_tokenizer(indexing.user_identifiers(), config.model.vocab_size)
        if pretrained is None
        else load_family(config.model.family).vocabulary(pretrained)
    )
    if vectors is not None and indexing.codes is not None:
        similarities = [prefix_similarity(vectors, indexing.codes, n) for n in (0, 1, 2)]
        log.info(
            "%d items have %s codes, %d of them random because these items have no data; mean "
            "cosine similarity of item pairs: %.3f, with the same first symbol %.3f, with the same "
            "first two symbols %.3f",
            len(vectors),
            indexing.kind,
            (~vectors.any(axis=1)).sum(),
            *similarities,
        )
    return indexing, with_symbols(vocabulary, code_symbols(sequences.n_items))


def code_vectors(
    config: WithIdentifiers, sequences: UserSequences, metadata: LogMetadata | None
) -> Float[np.ndarray, "N d"] | None:
    """Compute the item vectors that the codes of `config.indexing` are clustered from.

    Args:
        config: the run's config.
        sequences: the run's dataset.
        metadata: the dataset's original ids and titles; None if it has none.

    Returns:
        One vector per item, zero for an item without data; None for random codes.

    Raises:
        InputError: the codes require titles or attributes, and the dataset has neither.
    """
    codes, kind, seed = config.codes, config.indexing, config.indexing_seed
    if kind == "random_codes":
        return None
    from_users = from_texts = None
    if kind in ("collaborative", "combined"):
        from_users = collaborative_vectors(sequences, codes.dims, codes.window, seed)
    if kind in ("semantic", "combined"):
        titles, attributes = _item_texts(config, sequences, metadata)
        from_texts = text_vectors(titles, attributes, codes.dims, seed)
    if from_users is None or from_texts is None:
        return from_texts if from_users is None else from_users
    return side_by_side(from_users, from_texts, codes.text_weight)


def _item_texts(
    config: WithIdentifiers, sequences: UserSequences, metadata: LogMetadata | None
) -> tuple[Sequence[str | None], Sequence[Sequence[str] | None]]:
    """Return the title and the attributes of every item, None where an item has none."""
    if metadata is not None:
        titles, attributes = metadata.titles, metadata.attributes or [None] * sequences.n_items
    else:
        attributes_by_id = named_attributes(config.data.name, config.data.dir)
        titles = [None] * sequences.n_items
        attributes = [attributes_by_id.get(item) for item in sequences.item_ids.tolist()]
    if not any(titles) and not any(attributes):
        raise InputError(
            f"config.indexing: found {config.indexing!r}, but {sequences.name} has neither titles "
            "nor attributes; expected a prepared dataset that has them (python -m genrec_jax "
            "prepare), or the attribute file of a named dataset in config.data.dir"
        )
    return titles, attributes
