"""The family record of the model over item codes."""

from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from genrec_jax.core.devices import resolve_dtype
from genrec_jax.core.errors import InputError
from genrec_jax.data.sequences import UserSequences, repeats
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.input_lengths import InputLengths
from genrec_jax.identifiers.trie import Trie, decided
from genrec_jax.layers.flops import TRAINING, decoder_flops, encoder_flops
from genrec_jax.models.code_genrec.config import SCORING_PRIORS, Config
from genrec_jax.models.code_genrec.model import CodeGenRecShape, EncoderPrior
from genrec_jax.models.contract import Family, ItemVectors, Objective, Params, init_params
from genrec_jax.models.tables import Tables, put_on_device

FRAME = 2  # encoder positions of the user and of the mask
# Small blocks are the fastest, since states are vectors and short codes share prefixes.
BLOCK_NODES = 128


class CodeGenRecFamily(Family):
    """The family over item codes: trained from scratch, with paths that end at the last branch."""

    name = "code_genrec"
    title = "GenRec over codes"
    shape = CodeGenRecShape

    def check_data(self, config: Config, sequences: UserSequences) -> None:
        n_repeats = repeats(sequences, config.finetune.n_excluded)
        if config.model.encoder_prior == "new_items" and n_repeats:
            raise InputError(
                f"config.model.encoder_prior: found 'new_items' with {sequences.name}, where "
                f"{n_repeats} training interactions repeat an item of the user's history, "
                "expected 'copying'"
            )

    def objective(self, config: Config) -> Objective:
        """Return the objective: at a mask for `last_only`, as in the paper, else without a mask."""
        objectives: dict[str, Objective] = {
            "last_only": "next_item",
            "prefix_augmentation": "following_item",
            "all_positions": "every_item",
        }
        return objectives[config.finetune.targets]

    def supports_unknown_users(self, config: Config) -> bool:
        return config.model.user_dropout > 0

    def input_lengths(self, config: Config, catalogue: Catalogue) -> InputLengths:
        return InputLengths(
            FRAME,
            np.zeros(catalogue.n_users, np.int64),
            np.ones(catalogue.n_items, np.int64),
            config.model.max_tokens,
            "config.model.max_tokens",
        )

    def make_shape(
        self, config: Config, catalogue: Catalogue, pretrained: Path | None, longest: int
    ) -> CodeGenRecShape:
        trie, settings = self.search_trie(catalogue), config.model
        return CodeGenRecShape(
            vocab_size=catalogue.vocabulary.size,
            d_model=settings.d_model,
            encoder_layers=settings.encoder_layers,
            decoder_layers=settings.decoder_layers,
            heads=settings.attention_heads,
            ffn_dim=settings.ffn_dim,
            max_positions=settings.max_tokens,
            path_length=trie.depth,
            inner_nodes=int((trie.items < 0).sum()),
            dropout=settings.dropout,
            attention_dropout=settings.attention_dropout,
            activation_dropout=settings.activation_dropout,
            user_dropout=settings.user_dropout,
            init_std=settings.init_std,
            dtype=resolve_dtype(settings.dtype),
            reversed_positions=settings.reversed_positions,
            longest_input=longest,
            encoder_prior=cast(EncoderPrior, settings.encoder_prior),
            temperature=settings.temperature,
            low_pass=settings.low_pass,
            frequencies=settings.frequencies,
        )

    def start_params(
        self,
        config: Config,
        shape: CodeGenRecShape,
        catalogue: Catalogue,
        pretrained: Path | None,
        item_vectors: ItemVectors,
    ) -> Params:
        """Return random parameters; with item_init=collaborative, item embeddings from vectors.

        The vectors are scaled to the average length of random ones. Columns beyond those of the
        vectors, and items without a vector, stay random.
        """
        params = init_params(shape, catalogue.n_users, catalogue.n_items, config.seed)
        if config.model.item_init == "random":
            return params
        codes = config.codes
        columns = min(codes.dims, config.model.d_model)
        vectors = item_vectors(columns, codes.window, config.indexing_seed)
        dims = vectors.shape[1]
        table = np.array(params["item_embedding"])
        known = vectors.any(axis=1)
        table[known, :dims] = vectors[known] * shape.init_std * np.sqrt(dims)
        params["item_embedding"] = jnp.asarray(table)
        return params

    def tables(self, catalogue: Catalogue, trie: Any) -> Tables:
        return Tables(put_on_device(catalogue.table), trie)

    def search_trie(self, catalogue: Catalogue) -> Trie:
        return decided(catalogue.trie)

    def block_nodes(self, shape: CodeGenRecShape, users: int) -> int:
        return BLOCK_NODES

    def sequence_flops(
        self, shape: CodeGenRecShape, catalogue: Catalogue, length: int, objective: Objective
    ) -> float:
        """Return the operations of the layers and of scoring the trie's nodes and the items."""
        trie, d = self.search_trie(catalogue), shape.d_model
        targets = length if objective == "every_item" else 1
        scored = sum(trie.widths)
        scored += catalogue.n_items if shape.encoder_prior in SCORING_PRIORS else 0
        encoder = encoder_flops(shape.blocks, shape.encoder_layers, length)
        decoder = decoder_flops(shape.blocks, shape.decoder_layers, trie.depth, length, targets)
        return TRAINING * float(encoder + decoder + 2 * targets * d * scored)


FAMILY = CodeGenRecFamily()
