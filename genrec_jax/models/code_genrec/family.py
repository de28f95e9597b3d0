"""The record of the family over item codes: how it is built, started and searched."""

from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from genrec_jax.core.devices import resolve_dtype
from genrec_jax.core.errors import InputError
from genrec_jax.data.sequences import UserSequences, repeats
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.sentences import InputLengths
from genrec_jax.identifiers.trie import Trie, decided
from genrec_jax.layers.flops import TRAINING, decoder_flops, encoder_flops
from genrec_jax.models.code_genrec.config import SCORING_PRIORS, Config
from genrec_jax.models.code_genrec.model import CodeGenRecShape, EncoderPrior
from genrec_jax.models.contract import Family, ItemVectors, Objective, Params, init_params
from genrec_jax.models.tables import Tables, put_on_device

FRAME = 2  # positions of the user and of the mask
# Where states are vectors, and short codes share beginnings, small blocks do the least work.
BLOCK_NODES = 128


class CodeGenRecFamily(Family):
    """From scratch, over the trie of `identifiers.trie.decided`: paths end at the last branch."""

    name = "code_genrec"
    title = "GenRec over codes"
    shape = CodeGenRecShape

    def check_data(self, config: Config, sequences: UserSequences) -> None:
        again = repeats(sequences, config.finetune.holdout)
        if config.model.encoder_prior == "new_items" and again:
            raise InputError(
                f"config.model.encoder_prior: found 'new_items' with {sequences.name}, where "
                f"{again} interactions to learn from are with an item that the user had before, "
                "expected 'copying'"
            )

    def objective(self, config: Config) -> Objective:
        """At a mask for `last_only`, as in the paper; else at the last item, or at every item."""
        objectives: dict[str, Objective] = {
            "last_only": "next_item",
            "prefix_augmentation": "following_item",
            "all_positions": "every_item",
        }
        return objectives[config.finetune.targets]

    def knows_strangers(self, config: Config) -> bool:
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
        """Random parameters, the item embeddings from `item_vectors` if the config says so.

        Those are as long as random ones are on average. Columns that they have not, and items of
        which they say nothing, stay random.
        """
        params = init_params(shape, catalogue.n_users, catalogue.n_items, config.seed)
        if config.model.item_init == "random":
            return params
        codes = config.codes
        most = min(codes.dims, config.model.d_model)
        vectors = item_vectors(most, codes.window, config.indexing_seed)
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
        """The layers, and the products of a query with the nodes and the items that are scored."""
        trie, d = self.search_trie(catalogue), shape.d_model
        names = length if objective == "every_item" else 1
        scored = sum(trie.widths)
        scored += catalogue.n_items if shape.encoder_prior in SCORING_PRIORS else 0
        encoder = encoder_flops(shape.blocks, shape.encoder_layers, length)
        decoder = decoder_flops(shape.blocks, shape.decoder_layers, trie.depth, length, names)
        return TRAINING * float(encoder + decoder + 2 * names * d * scored)


FAMILY = CodeGenRecFamily()
