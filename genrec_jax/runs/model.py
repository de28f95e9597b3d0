"""Create the model of a config and its initial parameters."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import jax

from genrec_jax.data.sequences import PRETRAINING_EXCLUDES, UserSequences, next_item_examples
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.input_lengths import InputLengths, longest_input
from genrec_jax.identifiers.item_vectors import collaborative_vectors
from genrec_jax.models import load_family
from genrec_jax.models.contract import Family, ModelShape, Objective, Params, abstract_model
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSetup:
    """A run's model without its parameters: family, config, shape and item catalogue."""

    family: Family
    config: RunConfig
    shape: ModelShape
    catalogue: Catalogue

    @classmethod
    def new(
        cls,
        config: RunConfig,
        catalogue: Catalogue,
        sequences: UserSequences,
        pretrained: Path | None,
    ) -> "ModelSetup":
        """Create the model of a new run.

        Args:
            config: the run's config.
            catalogue: the run's users and items with their identifiers.
            sequences: the run's dataset.
            pretrained: the folder with the pretrained weights; None to train from scratch.

        Raises:
            InputError: the pretrained weights have other shapes than the config requires.
        """
        family = load_family(config.model.family)
        lengths = family.input_lengths(config, catalogue)
        longest = longest_trained(config, sequences, lengths)
        shape = family.make_shape(config, catalogue, pretrained, longest)
        return cls(family, config, shape, catalogue)

    @classmethod
    def load(cls, folder: RunFolder, config: RunConfig) -> "ModelSetup":
        """Create the model of an existing run.

        Args:
            folder: the run's directory.
            config: the run's config.

        Raises:
            InputError: a file of the run is missing or damaged.
        """
        family = load_family(config.model.family)
        catalogue = folder.read_identifiers()
        return cls(family, config, folder.read_shape(), catalogue)

    @cached_property
    def graph_and_like(self) -> tuple[Any, Params]:
        """The graph definition and the abstract parameters (shapes and types) of the model."""
        return abstract_model(self.shape, self.catalogue.n_users, self.catalogue.n_items)

    @cached_property
    def lengths(self) -> InputLengths:
        """The number of encoder positions that each user and item occupies in an input."""
        return self.family.input_lengths(self.config, self.catalogue)

    def start_params(self, sequences: UserSequences, pretrained: Path | None) -> Params:
        """Return the parameters that training starts from.

        Args:
            sequences: the run's dataset.
            pretrained: the folder with the pretrained weights; None to train from scratch.
        """
        item_vectors = partial(collaborative_vectors, sequences)
        return self.family.start_params(
            self.config, self.shape, self.catalogue, pretrained, item_vectors
        )

    def sequence_flops(self, objective: Objective) -> Callable[[int], float]:
        """Return a function from a training sequence's encoder positions to its FLOPs.

        Args:
            objective: the training objective, which determines the decoder's part.
        """
        flops = self.family.sequence_flops
        return cache(partial(flops, self.shape, self.catalogue, objective=objective))


def longest_trained(config: RunConfig, sequences: UserSequences, lengths: InputLengths) -> int:
    """Return the number of encoder positions of the longest training input.

    Test histories are up to two items longer, and serving accepts histories of any length. A model
    trained from scratch has untrained embeddings at positions beyond this length, so ranking
    truncates histories to it.

    Pretraining inputs are no longer than those of finetuning with `n_excluded=2`: with the last
    item of the training part masked, they are identical.

    Args:
        config: the run's config.
        sequences: the run's dataset.
        lengths: the number of encoder positions that each history occupies.
    """
    n_excluded = config.finetune.n_excluded if config.finetune.epochs else PRETRAINING_EXCLUDES
    return longest_input(next_item_examples(sequences, n_excluded), lengths)


def log_parameters(params: Params, dtype: str) -> None:
    """Log the number of parameters, in total and for each top-level module.

    Args:
        params: the model's parameters.
        dtype: the name of their type, for the log line.
    """
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()
    }
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    log.info("model: %s parameters in %s (%s)", f"{sum(sizes.values()):,}", dtype, parts)
