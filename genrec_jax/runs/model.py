"""The shape of the model that a config describes, and the parameters that training starts from."""

import dataclasses
import logging
from pathlib import Path
from typing import cast

import jax
import numpy as np
from jaxtyping import Float

from genrec_jax.core.errors import InputError
from genrec_jax.data.sequences import (
    PRETRAINING_HOLDOUT,
    UserSequences,
    next_item_examples,
)
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.item_vectors import collaborative_vectors
from genrec_jax.identifiers.sentences import longest_input
from genrec_jax.identifiers.token_table import TokenTable
from genrec_jax.identifiers.trie import decided
from genrec_jax.models.bart import BartShape
from genrec_jax.models.convert import (
    SHAPE_KEYS,
    load_params,
    read_positions,
    read_shape,
    with_tokens,
)
from genrec_jax.models.genrec import (
    CountFrom,
    GenRecShape,
    Head,
    Params,
    Residual,
    abstract_model,
    init_params,
)
from genrec_jax.models.hub import checkpoint_folder
from genrec_jax.models.id_tables import TABLES
from genrec_jax.models.item_inputs import Unit
from genrec_jax.runs.config import Config, ModelConfig

log = logging.getLogger(__name__)


def pretrained_folder(config: ModelConfig) -> Path | None:
    """Where the weights and the tokenizer come from; None for a run from scratch."""
    return checkpoint_folder(config.pretrained) if config.pretrained else None


def longest_trained(config: Config, sequences: UserSequences, table: TokenTable) -> int:
    """The encoder tokens of the longest input that training reads.

    The test's histories are up to two items longer, and serving asks for any length. A model from
    scratch has no vectors for such positions but noise, so ranking cuts histories to this length.

    Pretraining reads no longer inputs than finetuning with a holdout of 2: with the last item of
    the training part masked, they are the same.
    """
    holdout = config.finetune.holdout if config.finetune.epochs else PRETRAINING_HOLDOUT
    examples = next_item_examples(sequences, holdout)
    return longest_input(examples, table, config.model.max_tokens, config.model.encoder_unit)


def model_shape(
    config: ModelConfig, catalogue: Catalogue, pretrained: Path | None, longest: int = 0
) -> GenRecShape:
    """The checkpoint's, or from the config alone where there is none.

    Args:
        config: of the model.
        catalogue: of the run.
        pretrained: the checkpoint's folder; None: from scratch.
        longest: see `longest_trained`; counts for a model from scratch.

    Raises:
        InputError: a key of the config that was changed asks for another shape than the
            checkpoint's, or the checkpoint cannot hold the tokenizer or `max_tokens`.
    """
    vocabulary = catalogue.vocabulary
    nodes = int((decided(catalogue.trie).items < 0).sum()) if config.head == "trie" else 0
    ours = GenRecShape(
        vocab_size=vocabulary.size,
        max_positions=config.max_tokens,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        init_std=config.init_std,
        low_pass=config.low_pass,
        frequencies=config.frequencies,
        dtype=_dtype(config.dtype),
        encoder_unit=cast(Unit, config.encoder_unit),
        head=cast(Head, config.head),
        count_from=cast(CountFrom, config.count_from),
        residual=cast(Residual, config.residual),
        inner_nodes=nodes,
        temperature=config.temperature,
        longest_input=longest,
        **_sizes(config),
    )
    if pretrained is None:
        return ours
    theirs, positions = read_shape(pretrained), read_positions(pretrained)
    if vocabulary.n_words > theirs.vocab_size:
        raise InputError(
            f"{pretrained}: its tokenizer has {vocabulary.n_words} tokens, expected at most "
            f"vocab_size = {theirs.vocab_size} of its config.json"
        )
    if config.max_tokens > theirs.max_positions:
        raise InputError(
            f"config.model.max_tokens: found {config.max_tokens}, expected at most the "
            f"{theirs.max_positions} positions of {pretrained}"
        )
    # A key at its default says nothing, so that bart-large or a distilled BART needs no flags.
    defaults = _sizes(ModelConfig())
    wrong = [
        f"{name} is {getattr(theirs, name)} there and {size} here"
        for name, size in _sizes(config).items()
        if size not in (defaults[name], getattr(theirs, name))
    ]
    if config.count_from not in ("start", positions.count_from):
        wrong.append(f"count_from is {positions.count_from} there and {config.count_from} here")
    if config.count_from != positions.count_from:
        log.info("positions are counted from the %s, as in %s", positions.count_from, pretrained)
    if wrong:
        raise InputError(
            f"config.model: {pretrained} is a checkpoint of another shape: {'; '.join(wrong)}"
        )
    shape = dataclasses.replace(
        ours,
        **{name: getattr(theirs, name) for name in SHAPE_KEYS},
        count_from=positions.count_from,
        # Of a checkpoint that was trained from scratch; 0 for BART, whose positions all are.
        longest_input=positions.longest_input and max(positions.longest_input, longest),
    )
    return dataclasses.replace(shape, vocab_size=max(theirs.vocab_size, vocabulary.size))


def _sizes(config: ModelConfig) -> dict[str, int]:
    """Those of a GenRecShape that the config has keys for."""
    return {
        "d_model": config.d_model,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_heads": config.attention_heads,
        "decoder_heads": config.attention_heads,
        "encoder_ffn_dim": config.ffn_dim,
        "decoder_ffn_dim": config.ffn_dim,
    }


def start_vectors(config: Config, sequences: UserSequences) -> Float[np.ndarray, "N d"] | None:
    """What `model.item_vectors` starts the items' id vectors from; None: chance."""
    if config.model.item_vectors == "random":
        return None
    codes, dims = config.codes, min(config.codes.dims, config.model.d_model)
    return collaborative_vectors(sequences, dims, codes.window, config.indexing_seed)


def start_params(
    shape: BartShape,
    catalogue: Catalogue,
    pretrained: Path | None,
    seed: int,
    vectors: Float[np.ndarray, "N d"] | None = None,
) -> Params:
    """The checkpoint's weights with fresh id tables and symbols of codes, or everything fresh.

    A checkpoint that was exported from a run gives the rows of users and items that it knows too.
    Fresh item vectors start from `vectors`, of length 1: as long as random ones are on average.
    Columns that these have not, and items of which they say nothing (rows of zeros), stay random.
    """
    users, items = catalogue.table.n_users, catalogue.table.n_items
    params = init_params(shape, users, items, seed)
    if vectors is not None:
        dims = vectors.shape[1]
        table = np.array(params["item_embedding"])
        told = vectors.any(axis=1)
        table[told, :dims] = vectors[told] * shape.init_std * np.sqrt(dims)
        params["item_embedding"] = jax.numpy.asarray(table)
    if pretrained is None:
        return params
    # Of the rest the shapes are enough: the random weights go before the checkpoint's come.
    theirs = dataclasses.replace(shape, vocab_size=read_shape(pretrained).vocab_size)
    _, like = abstract_model(theirs, users, items)
    n_words = catalogue.vocabulary.n_words
    symbols = params["token_embedding"][n_words:]
    params = {**like, **{name: params[name] for name in TABLES}}
    params = load_params(pretrained, theirs, params, catalogue)
    return with_tokens(params, n_words, symbols[: catalogue.vocabulary.size - n_words])


def log_parameters(params: Params, dtype: str) -> None:
    """How many there are, by part."""
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()
    }
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    log.info("model: %s parameters in %s (%s)", f"{sum(sizes.values()):,}", dtype, parts)


def _dtype(name: str) -> str:
    if name != "auto":
        return name
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
