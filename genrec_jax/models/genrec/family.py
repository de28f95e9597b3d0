"""The record of the paper's family: how GenRec is built, started and searched."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np

from genrec_jax.core.devices import resolve_dtype
from genrec_jax.core.errors import InputError
from genrec_jax.identifiers.catalogue import TOKENIZER, Catalogue
from genrec_jax.identifiers.sentences import InputLengths, token_lengths
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
from genrec_jax.models.genrec.hub import checkpoint_folder, folder_at_hand
from genrec_jax.models.genrec.id_tables import FILE as ID_TABLES
from genrec_jax.models.genrec.id_tables import TABLES
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.models.tables import Tables, put_on_device

log = logging.getLogger(__name__)

LOGITS_BYTES = 2**28  # of one block of trie nodes


class GenRecFamily(Family):
    """BART's weights or random ones, a tokenizer, the whole vocabulary as output."""

    name = "genrec"
    title = "GenRec"
    shape = GenRecShape

    def pretrained(self, config: Config) -> Path | None:
        pretrained = config.model.pretrained
        return checkpoint_folder(pretrained) if pretrained else None

    def tokenizer_at_hand(self, config: Config) -> tuple[Path | None, str]:
        """The checkpoint's if its files are on this machine, else one trained on the names.

        The name pieces are others then, the numbers are the same.
        """
        pretrained = config.model.pretrained
        if not pretrained:
            return super().tokenizer_at_hand(config)
        if folder := folder_at_hand(pretrained):
            return folder, pretrained
        return None, f"trained on the names, since {pretrained} is not on this machine"

    def vocabulary(self, pretrained: Path) -> Vocabulary:
        """BART's tokenizer, or that of the run which a folder was exported from.

        The latter is taken as it is: BartTokenizer would build it anew from its merges, and split
        names before it merges.
        """
        if (pretrained / ID_TABLES).is_file():
            return read_tokenizer(pretrained / TOKENIZER)
        if (pretrained / "config.json").is_file() and is_export(pretrained):
            raise InputError(
                f"{pretrained}: was exported by genrec_jax, but lacks {ID_TABLES}, expected the "
                "whole folder"
            )
        return load_bart_tokenizer(pretrained)

    def objective(self, config: Config) -> Objective:
        return "next_item"

    def knows_strangers(self, config: Config) -> bool:
        return config.model.user_dropout > 0

    def input_lengths(self, config: Config, catalogue: Catalogue) -> InputLengths:
        return token_lengths(catalogue.table, config.model.max_tokens)

    def make_shape(
        self, config: Config, catalogue: Catalogue, pretrained: Path | None, longest: int
    ) -> GenRecShape:
        """The checkpoint's shape, or from the settings alone where there is none.

        Raises:
            InputError: a key that was changed asks for another shape than the checkpoint's, or the
                checkpoint cannot hold the tokenizer or `max_tokens`.
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
        """The checkpoint's weights with fresh id tables and symbols of codes, or everything fresh.

        A checkpoint that was exported from a run gives the rows of users and items that it knows.
        """
        users, items = catalogue.n_users, catalogue.n_items
        params = init_params(shape, users, items, config.seed)
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

    def tables(self, catalogue: Catalogue, trie: Any) -> Tables:
        return Tables(put_on_device(catalogue.table))

    def search_trie(self, catalogue: Catalogue) -> Trie:
        return catalogue.trie

    def block_nodes(self, shape: GenRecShape, users: int) -> int:
        """Nodes of a block whose logits, for so many users, stay within LOGITS_BYTES."""
        return int(np.clip(LOGITS_BYTES // (4 * users * shape.vocab_size), 32, 1024))

    def export(self, run: StoredRun, output: Path) -> None:
        """Write a Hugging Face folder that PyTorch's BART loads (export.py)."""
        from genrec_jax.models.genrec.export import Origin, write_folder  # nothing else needs it

        origin = Origin(run.name, run.step, run.dataset)
        write_folder(output, run.catalogue, run.shape, run.params, origin)

    def sequence_flops(
        self, shape: GenRecShape, catalogue: Catalogue, length: int, objective: Objective
    ) -> float:
        return bart_flops(shape, length, int(catalogue.table.item_lengths.max()) + 1)


def bart_flops(shape: GenRecShape, n_tokens: int, n_decoder_tokens: int) -> float:
    """Operations of a training sequence of T encoder and S decoder tokens (layers/flops.py).

    The output adds 2 S D V to the layers. BART-base at T = 64, S = 8 comes to 23.5 GFLOP.
    """
    output = 2 * n_decoder_tokens * shape.d_model * shape.vocab_size
    encoder = encoder_flops(shape.encoder, shape.encoder_layers, n_tokens)
    decoder = decoder_flops(shape.decoder, shape.decoder_layers, n_decoder_tokens, n_tokens)
    return TRAINING * float(encoder + decoder + output)


def _of_checkpoint(
    ours: GenRecShape, settings: ModelConfig, catalogue: Catalogue, pretrained: Path
) -> GenRecShape:
    vocabulary = catalogue.vocabulary
    theirs, positions = read_shape(pretrained), read_positions(pretrained)
    if vocabulary.n_words > theirs.vocab_size:
        raise InputError(
            f"{pretrained}: its tokenizer has {vocabulary.n_words} tokens, expected at most "
            f"vocab_size = {theirs.vocab_size} of its config.json"
        )
    if settings.max_tokens > theirs.max_positions:
        raise InputError(
            f"config.model.max_tokens: found {settings.max_tokens}, expected at most the "
            f"{theirs.max_positions} positions of {pretrained}"
        )
    # A key at its default says nothing, so that bart-large or a distilled BART needs no flags.
    defaults = _sizes(ModelConfig())
    wrong = [
        f"{name} is {getattr(theirs, name)} there and {size} here"
        for name, size in _sizes(settings).items()
        if size not in (defaults[name], getattr(theirs, name))
    ]
    if settings.reversed_positions and not positions.reversed_positions:
        wrong.append("reversed_positions is False there and True here")
    if positions.reversed_positions and not settings.reversed_positions:
        log.info("positions are counted from the end, as in %s", pretrained)
    if wrong:
        raise InputError(
            f"config.model: {pretrained} is a checkpoint of another shape: {'; '.join(wrong)}"
        )
    shape = dataclasses.replace(
        ours,
        **{name: getattr(theirs, name) for name in SHAPE_KEYS},
        reversed_positions=positions.reversed_positions,
        # Of a checkpoint that was trained from scratch; 0 for BART, whose positions all are.
        longest_input=positions.longest_input and max(positions.longest_input, ours.longest_input),
    )
    return dataclasses.replace(shape, vocab_size=max(theirs.vocab_size, vocabulary.size))


def _sizes(settings: ModelConfig) -> dict[str, int]:
    """Those of a GenRecShape that the settings have keys for."""
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
