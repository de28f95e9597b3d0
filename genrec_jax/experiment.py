"""What a config describes, loaded: the dataset, the catalogue and the model's shape and start."""

import dataclasses
import logging
from pathlib import Path

import jax
import numpy as np

from genrec_jax.config import Config, DataConfig, ModelConfig
from genrec_jax.data.datasets import load_named
from genrec_jax.data.sequences import Examples, UserSequences, read_sequence_file
from genrec_jax.data.synthetic import SyntheticSpec, synthetic_sequences
from genrec_jax.errors import InputError
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.indexing import make_indexing
from genrec_jax.identifiers.tokenizer import Vocabulary, load_bart_tokenizer, train_tokenizer
from genrec_jax.model.bart import BartShape
from genrec_jax.model.convert import SHAPE_KEYS, load_params, read_shape
from genrec_jax.model.genrec import Params, init_params
from genrec_jax.model.hub import checkpoint_folder

log = logging.getLogger(__name__)


def load_sequences(config: DataConfig) -> UserSequences:
    """Raises InputError for a file that is missing, corrupt or ill-formed."""
    if config.name == "synthetic":
        return synthetic_sequences(synthetic_spec(config))
    if config.name == "file":
        path = Path(config.file).expanduser()
        return read_sequence_file(path, path.stem)
    return load_named(config.name, config.dir)


def synthetic_spec(config: DataConfig) -> SyntheticSpec:
    return SyntheticSpec(
        users=config.synthetic_users, items=config.synthetic_items, seed=config.synthetic_seed
    )


def log_statistics(sequences: UserSequences) -> None:
    """The figures of the paper's Table 2."""
    n = len(sequences.items)
    log.info(
        "dataset %s: %d users, %d items, %d interactions, %.1f items a user, %.1f users an item, "
        "longest history %d",
        sequences.name,
        sequences.n_users,
        sequences.n_items,
        n,
        n / sequences.n_users,
        n / sequences.n_items,
        sequences.lengths.max(),
    )


def build_catalogue(config: Config, sequences: UserSequences, pretrained: Path | None) -> Catalogue:
    """Number, name and tokenize every user and item.

    Args:
        config: of the run.
        sequences: its dataset.
        pretrained: the folder of BART's tokenizer; None: train one on the names.
    """
    indexing = make_indexing(config.indexing, sequences, config.indexing_seed)
    if pretrained is None:
        names = indexing.item_names() + indexing.user_names()
        vocabulary = train_tokenizer(names, config.model.vocab_size)
    else:
        vocabulary = load_bart_tokenizer(pretrained)
    return Catalogue.build(sequences, indexing, vocabulary)


def pretrained_folder(config: ModelConfig) -> Path | None:
    """Where the weights and the tokenizer come from; None for a run from scratch."""
    return checkpoint_folder(config.pretrained) if config.pretrained else None


def model_shape(config: ModelConfig, vocabulary: Vocabulary, pretrained: Path | None) -> BartShape:
    """From the checkpoint, which must agree with the config's keys, or from the config alone."""
    ours = BartShape(
        vocab_size=vocabulary.size,
        d_model=config.d_model,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_heads=config.attention_heads,
        decoder_heads=config.attention_heads,
        encoder_ffn_dim=config.ffn_dim,
        decoder_ffn_dim=config.ffn_dim,
        max_positions=config.max_tokens,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        init_std=config.init_std,
        dtype=_dtype(config.dtype),
    )
    if pretrained is None:
        return ours
    theirs = read_shape(pretrained)
    if vocabulary.size > theirs.vocab_size:
        raise InputError(
            f"{pretrained}: its tokenizer has {vocabulary.size} tokens, expected at most "
            f"vocab_size = {theirs.vocab_size} of its config.json"
        )
    if config.max_tokens > theirs.max_positions:
        raise InputError(
            f"config.model.max_tokens: found {config.max_tokens}, expected at most the "
            f"{theirs.max_positions} positions of {pretrained}"
        )
    merged = dataclasses.replace(
        ours, vocab_size=theirs.vocab_size, max_positions=theirs.max_positions
    )
    wrong = [
        f"{name} is {getattr(theirs, name)} there and {getattr(merged, name)} here"
        for name in SHAPE_KEYS
        if getattr(theirs, name) != getattr(merged, name)
    ]
    if wrong:
        raise InputError(
            f"config.model: {pretrained} is a checkpoint of another shape: {'; '.join(wrong)}"
        )
    return merged


def start_params(
    shape: BartShape, catalogue: Catalogue, pretrained: Path | None, seed: int
) -> Params:
    """The checkpoint's weights with fresh id tables, or everything fresh."""
    params = init_params(shape, catalogue.table.n_users, catalogue.table.n_items, seed)
    if pretrained is not None:
        params = load_params(pretrained, shape, params)
    return params


def log_parameters(params: Params, dtype: str) -> None:
    """How many there are, by part."""
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()
    }
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    log.info("model: %s parameters in %s (%s)", f"{sum(sizes.values()):,}", dtype, parts)


def sample_users(examples: Examples, users: int, seed: int) -> Examples:
    """A seeded sample without replacement, in order; all where `users` is 0 or not fewer."""
    if users == 0 or users >= len(examples):
        return examples
    rows = np.random.default_rng([seed, users]).choice(len(examples), users, replace=False)
    return examples.take(np.sort(rows))


def _dtype(name: str) -> str:
    if name != "auto":
        return name
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
