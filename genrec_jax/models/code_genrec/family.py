"""The record of the family over item codes: how it is built, started and searched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from genrec_jax.core.devices import resolve_dtype
from genrec_jax.core.errors import InputError
from genrec_jax.data.sequences import UserSequences, repeats
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.sentences import InputLengths
from genrec_jax.identifiers.trie import Trie, decided
from genrec_jax.layers.flops import TRAINING, decoder_flops, encoder_flops
from genrec_jax.models.code_genrec.config import ModelConfig
from genrec_jax.models.code_genrec.model import CodeGenRecShape, CountFrom, Residual
from genrec_jax.models.contract import Family, Objective, Params, init_params
from genrec_jax.models.tables import Tables, put_on_device

FRAME = 2  # positions of the user and of the mask
# Where states are vectors, and short codes share beginnings, small blocks do the least work.
BLOCK_NODES = 128


class CodeGenRecFamily(Family):
    """From scratch, over the trie of `identifiers.trie.decided`: paths end at the last branch."""

    name = "code_genrec"
    title = "GenRec over codes"
    shape = CodeGenRecShape

    def check_data(self, settings: ModelConfig, sequences: UserSequences, holdout: int) -> None:
        again = repeats(sequences, holdout)
        if settings.residual == "unseen" and again:
            raise InputError(
                f"config.model.residual: found 'unseen' with {sequences.name}, where {again} "
                "interactions to learn from are with an item that the user had before, expected "
                "'items'"
            )

    def objective(self, settings: ModelConfig, targets: str) -> Objective:
        """At a mask for `last`, as the paper has it; else at the last item, or at every item."""
        objectives: dict[str, Objective] = {
            "last": "next_item",
            "prefixes": "following_item",
            "every": "every_item",
        }
        return objectives[targets]

    def input_lengths(self, settings: ModelConfig, catalogue: Catalogue) -> InputLengths:
        return InputLengths(
            FRAME,
            np.zeros(catalogue.n_users, np.int64),
            np.ones(catalogue.n_items, np.int64),
            settings.max_tokens,
            "config.model.max_tokens",
        )

    def make_shape(
        self, settings: ModelConfig, catalogue: Catalogue, pretrained: Path | None, longest: int
    ) -> CodeGenRecShape:
        trie = self.search_trie(catalogue)
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
            count_from=cast(CountFrom, settings.count_from),
            longest_input=longest,
            residual=cast(Residual, settings.residual),
            temperature=settings.temperature,
            low_pass=settings.low_pass,
            frequencies=settings.frequencies,
        )

    def start_params(
        self,
        settings: ModelConfig,
        shape: CodeGenRecShape,
        catalogue: Catalogue,
        pretrained: Path | None,
        seed: int,
        item_vectors: Callable[[int], Float[np.ndarray, "N d"]],
    ) -> Params:
        """Random parameters, the items' id vectors from `item_vectors` if the settings say so.

        Those are as long as random ones are on average. Columns that they have not, and items of
        which they say nothing, stay random.
        """
        params = init_params(shape, catalogue.n_users, catalogue.n_items, seed)
        if settings.item_vectors == "random":
            return params
        vectors = item_vectors(settings.d_model)
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
        scored += catalogue.n_items if shape.residual in ("items", "unseen") else 0
        encoder = encoder_flops(shape.blocks, shape.encoder_layers, length)
        decoder = decoder_flops(shape.blocks, shape.decoder_layers, trie.depth, length, names)
        return TRAINING * float(encoder + decoder + 2 * names * d * scored)


FAMILY = CodeGenRecFamily()
