"""The genrec family: the checkpoint, inputs, shape and export of the paper's model."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np

from genrec_jax.core.devices import resolve_dtype
from genrec_jax.core.errors import InputError
from genrec_jax.identifiers.catalogue import TOKENIZER, Catalogue
from genrec_jax.identifiers.input_lengths import InputLengths, token_lengths
from genrec_jax.identifiers.tokenizer import Vocabulary, load_bart_tokenizer, read_tokenizer
from genrec_jax.identifiers.trie import Trie
from genrec_jax.layers.flops import TRAINING, decoder_flops, encoder_flops
from genrec_jax.models.contract import (
    Family,
    ItemVectors,
    Objective,
    Params,
    StoredRun,
    abstract_model,
    init_params,
)
from genrec_jax.models.genrec.config import Config, ModelConfig
from genrec_jax.models.genrec.convert import (
    SHAPE_KEYS,
    is_export,
    load_params,
    read_positions,
    read_shape,
    with_tokens,
)
from genrec_jax.models.genrec.hub import checkpoint_folder, local_folder
from genrec_jax.models.genrec.id_tables import FILE as ID_TABLES
from genrec_jax.models.genrec.id_tables import TABLES
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.models.tables import Tables, put_on_device

log = logging.getLogger(__name__)

LOGITS_BYTES = 2**28  # memory for the logits of one block of trie nodes


class GenRecFamily(Family):
    """The model of the paper: BART, pretrained or from scratch, with user and item id tables.

    It generates the next item's identifier token by token, with a softmax over the vocabulary.
    """

    name = "genrec"
    title = "GenRec"
    shape = GenRecShape

    def pretrained(self, config: Config) -> Path | None:
        pretrained = config.model.pretrained
        return checkpoint_folder(pretrained) if pretrained else None

    def local_tokenizer(self, config: Config) -> tuple[Path | None, str]:
        """Return the checkpoint's folder if its tokenizer is on this machine, and a description.

        Otherwise the folder is None, and a tokenizer is trained on the identifiers. It splits them
        into other tokens, but the numbers in them are the same.
        """
        pretrained = config.model.pretrained
        if not pretrained:
            return super().local_tokenizer(config)
        if folder := local_folder(pretrained):
            return folder, pretrained
        return None, f"trained on the identifiers, since {pretrained} is not on this machine"

    def vocabulary(self, pretrained: Path) -> Vocabulary:
        """Load BART's tokenizer, or the tokenizer of an exported run.

        The latter is not read with BartTokenizer, which would rebuild it from its merges and split
        identifiers before merging.

        Raises:
            InputError: there is no tokenizer, or an exported folder is incomplete.
        """
        if (pretrained / ID_TABLES).is_file():
            return read_tokenizer(pretrained / TOKENIZER)
        if (pretrained / "config.json").is_file() and is_export(pretrained):
            raise InputError(
                f"{pretrained}: found an export of genrec_jax without {ID_TABLES}, expected all "
                "files of the export"
            )
        return load_bart_tokenizer(pretrained)

    def objective(self, config: Config) -> Objective:
        return "next_item"

    def supports_unknown_users(self, config: Config) -> bool:
        return config.model.user_dropout > 0

    def input_lengths(self, config: Config, catalogue: Catalogue) -> InputLengths:
        return token_lengths(catalogue.table, config.model.max_tokens)

    def make_shape(
        self, config: Config, catalogue: Catalogue, pretrained: Path | None, longest: int
    ) -> GenRecShape:
        """Return the shape of the checkpoint or, for a model from scratch, of the config.

        Args:
            config: the run's config.
            catalogue: the run's users and items.
            pretrained: the folder of the checkpoint; None for a model from scratch.
            longest: the encoder positions of the longest training input.

        Raises:
            InputError: a config key contradicts the checkpoint's shape, or the checkpoint is too
                small for the tokenizer or for `max_tokens`.
        """
        settings = config.model
        ours = GenRecShape(
            vocab_size=catalogue.vocabulary.size,
            max_positions=settings.max_tokens,
            dropout=settings.dropout,
            attention_dropout=settings.attention_dropout,
            activation_dropout=settings.activation_dropout,
            user_dropout=settings.user_dropout,
            init_std=settings.init_std,
            dtype=resolve_dtype(settings.dtype),
            reversed_positions=settings.reversed_positions,
            longest_input=longest,
            **_sizes(settings),
        )
        return ours if pretrained is None else _of_checkpoint(ours, settings, catalogue, pretrained)

    def start_params(
        self,
        config: Config,
        shape: GenRecShape,
        catalogue: Catalogue,
        pretrained: Path | None,
        item_vectors: ItemVectors,
    ) -> Params:
        """Return the checkpoint's weights or, for a model from scratch, random parameters.

        The id tables and the embeddings of code symbols are random in both cases, except for the
        rows of users and items that an exported run has (id_tables.py).
        """
        users, items = catalogue.n_users, catalogue.n_items
        params = init_params(shape, users, items, config.seed)
        if pretrained is None:
            return params
        # Only id tables and symbols are kept, so that the other random weights are freed before the
        # checkpoint is read.
        theirs = dataclasses.replace(shape, vocab_size=read_shape(pretrained).vocab_size)
        _, like = abstract_model(theirs, users, items)
        n_words = catalogue.vocabulary.n_words
        symbols = params["token_embedding"][n_words:]
        params = {**like, **{name: params[name] for name in TABLES}}
        params = load_params(pretrained, theirs, params, catalogue)
        return with_tokens(params, n_words, symbols[: catalogue.vocabulary.size - n_words])

    def tables(self, catalogue: Catalogue, trie: Any) -> Tables:
        return Tables(put_on_device(catalogue.table))

    def search_trie(self, catalogue: Catalogue) -> Trie:
        return catalogue.trie

    def block_nodes(self, shape: GenRecShape, users: int) -> int:
        """Return the number of trie nodes per block whose logits fit into LOGITS_BYTES.

        Args:
            shape: the model's shape.
            users: the number of users in a batch.
        """
        return int(np.clip(LOGITS_BYTES // (4 * users * shape.vocab_size), 32, 1024))

    def export(self, run: StoredRun, output: Path) -> None:
        """Export a run as a Hugging Face folder that PyTorch's BART can load (export.py)."""
        from genrec_jax.models.genrec.export import Origin, write_folder  # only needed here

        origin = Origin(run.name, run.step, run.dataset)
        write_folder(output, run.catalogue, run.shape, run.params, origin)

    def sequence_flops(
        self, shape: GenRecShape, catalogue: Catalogue, length: int, objective: Objective
    ) -> float:
        return bart_flops(shape, length, int(catalogue.table.item_lengths.max()) + 1)


def bart_flops(shape: GenRecShape, n_tokens: int, n_decoder_tokens: int) -> float:
    """Return the floating-point operations of training on one example (layers/flops.py).

    The output's matrix multiplication adds 2 S D V to the layers. BART-base with T = 64 and S = 8
    takes 23.5 GFLOP.

    Args:
        shape: the model's shape, with the width D and V tokens in the vocabulary.
        n_tokens: T, the number of encoder tokens.
        n_decoder_tokens: S, the number of decoder tokens.
    """
    output = 2 * n_decoder_tokens * shape.d_model * shape.vocab_size
    encoder = encoder_flops(shape.encoder, shape.encoder_layers, n_tokens)
    decoder = decoder_flops(shape.decoder, shape.decoder_layers, n_decoder_tokens, n_tokens)
    return TRAINING * float(encoder + decoder + output)


def _of_checkpoint(
    ours: GenRecShape, settings: ModelConfig, catalogue: Catalogue, pretrained: Path
) -> GenRecShape:
    """Return `ours` with the checkpoint's sizes and positions, and check it against the config."""
    vocabulary = catalogue.vocabulary
    theirs, positions = read_shape(pretrained), read_positions(pretrained)
    if vocabulary.n_words > theirs.vocab_size:
        raise InputError(
            f"{pretrained}: found a tokenizer of {vocabulary.n_words} tokens, expected at most "
            f"vocab_size = {theirs.vocab_size} of its config.json"
        )
    if settings.max_tokens > theirs.max_positions:
        raise InputError(
            f"config.model.max_tokens: found {settings.max_tokens}, expected at most the "
            f"{theirs.max_positions} positions of {pretrained}"
        )
    # Keys at their defaults are ignored, so that bart-large or a distilled BART needs no flags.
    defaults = _sizes(ModelConfig())
    wrong = [
        f"{name}: found {size}, expected {getattr(theirs, name)}"
        for name, size in _sizes(settings).items()
        if size not in (defaults[name], getattr(theirs, name))
    ]
    if settings.reversed_positions and not positions.reversed_positions:
        wrong.append("reversed_positions: found True, expected False")
    if positions.reversed_positions and not settings.reversed_positions:
        log.info("using reversed positions, as %s was trained with them", pretrained)
    if wrong:
        raise InputError(
            f"config.model: found values that contradict the checkpoint {pretrained}: "
            f"{'; '.join(wrong)}"
        )
    shape = dataclasses.replace(
        ours,
        **{name: getattr(theirs, name) for name in SHAPE_KEYS},
        reversed_positions=positions.reversed_positions,
        # 0 for BART, whose positions are all trained.
        longest_input=positions.longest_input and max(positions.longest_input, ours.longest_input),
    )
    return dataclasses.replace(shape, vocab_size=max(theirs.vocab_size, vocabulary.size))


def _sizes(settings: ModelConfig) -> dict[str, int]:
    """Return the fields of GenRecShape that hold the config's sizes."""
    return {
        "d_model": settings.d_model,
        "encoder_layers": settings.encoder_layers,
        "decoder_layers": settings.decoder_layers,
        "encoder_heads": settings.attention_heads,
        "decoder_heads": settings.attention_heads,
        "encoder_ffn_dim": settings.ffn_dim,
        "decoder_ffn_dim": settings.ffn_dim,
    }


FAMILY = GenRecFamily()
