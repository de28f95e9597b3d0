"""The family record of SASRec."""

from pathlib import Path

import numpy as np

from genrec_jax.core.devices import resolve_dtype
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.input_lengths import InputLengths
from genrec_jax.layers.flops import TRAINING, encoder_flops
from genrec_jax.models.contract import Family, Objective
from genrec_jax.models.sasrec.config import Config
from genrec_jax.models.sasrec.model import SASRecShape


class SASRecFamily(Family):
    """A family that reads item ids only, without users, tokenizer or trie."""

    name = "sasrec"
    title = "SASRec"
    shape = SASRecShape

    def objective(self, config: Config) -> Objective:
        return "every_item" if config.finetune.targets == "all_positions" else "following_item"

    def input_lengths(self, config: Config, catalogue: Catalogue) -> InputLengths:
        return InputLengths(
            0,
            np.zeros(catalogue.n_users, np.int64),
            np.ones(catalogue.n_items, np.int64),
            config.model.max_items,
            "config.model.max_items",
        )

    def make_shape(
        self, config: Config, catalogue: Catalogue, pretrained: Path | None, longest: int
    ) -> SASRecShape:
        settings = config.model
        return SASRecShape(
            d_model=settings.d_model,
            layers=settings.layers,
            heads=settings.attention_heads,
            ffn_dim=settings.ffn_dim,
            max_items=settings.max_items,
            dropout=settings.dropout,
            attention_dropout=settings.attention_dropout,
            activation_dropout=settings.activation_dropout,
            init_std=settings.init_std,
            dtype=resolve_dtype(settings.dtype),
            reversed_positions=settings.reversed_positions,
            longest_input=longest,
        )

    def sequence_flops(
        self, shape: SASRecShape, catalogue: Catalogue, length: int, objective: Objective
    ) -> float:
        """Return the operations of the layers and of scoring all items for each query."""
        queries = length if objective == "every_item" else 1
        output = 2 * queries * shape.d_model * catalogue.n_items
        return TRAINING * float(encoder_flops(shape.blocks, shape.layers, length) + output)


FAMILY = SASRecFamily()
