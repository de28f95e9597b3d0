"""The model that a config describes, and the parameters that training starts from."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import jax

from genrec_jax.data.sequences import PRETRAINING_HOLDOUT, UserSequences, next_item_examples
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.item_vectors import collaborative_vectors
from genrec_jax.identifiers.sentences import InputLengths, longest_input
from genrec_jax.models import load_family
from genrec_jax.models.contract import Family, ModelShape, Objective, Params, abstract_model
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSetup:
    """A run's model without its parameters: family, config, shape, and the catalogue it ranks."""

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
        """The model of a new run.

        Args:
            config: of the run.
            catalogue: of the run.
            sequences: its dataset.
            pretrained: the folder of the weights; None: from scratch.

        Raises:
            InputError: the pretrained weights are of another shape.
        """
        family = load_family(config.model.family)
        lengths = family.input_lengths(config, catalogue)
        longest = longest_trained(config, sequences, lengths)
        shape = family.make_shape(config, catalogue, pretrained, longest)
        return cls(family, config, shape, catalogue)

    @classmethod
    def load(cls, folder: RunFolder, config: RunConfig) -> "ModelSetup":
        """The model of a run that is in `folder`.

        Raises:
            InputError: a file of the run is missing or damaged.
        """
        family = load_family(config.model.family)
        catalogue = folder.read_identifiers()
        return cls(family, config, folder.read_shape(), catalogue)

    @cached_property
    def graph_and_like(self) -> tuple[Any, Params]:
        """The graph definition and the shapes of the parameters."""
        return abstract_model(self.shape, self.catalogue.n_users, self.catalogue.n_items)

    @cached_property
    def lengths(self) -> InputLengths:
        """The encoder positions that histories take."""
        return self.family.input_lengths(self.config, self.catalogue)

    def start_params(self, sequences: UserSequences, pretrained: Path | None) -> Params:
        """The parameters that training starts from; arguments as of `new`."""
        item_vectors = partial(collaborative_vectors, sequences)
        return self.family.start_params(
            self.config, self.shape, self.catalogue, pretrained, item_vectors
        )

    def sequence_flops(self, objective: Objective) -> Callable[[int], float]:
        """Operations of a training sequence as a function of its encoder positions."""
        flops = self.family.sequence_flops
        return cache(partial(flops, self.shape, self.catalogue, objective=objective))


def longest_trained(config: RunConfig, sequences: UserSequences, lengths: InputLengths) -> int:
    """The encoder positions of the longest input that training reads.

    The test's histories are up to two items longer, and serving asks for any length. A model from
    scratch has no vectors for such positions but noise, so ranking cuts histories to this length.

    Pretraining reads no longer inputs than finetuning with a holdout of 2: with the last item of
    the training part masked, they are the same.
    """
    holdout = config.finetune.holdout if config.finetune.epochs else PRETRAINING_HOLDOUT
    return longest_input(next_item_examples(sequences, holdout), lengths)


def log_parameters(params: Params, dtype: str) -> None:
    """Log how many parameters there are, by part."""
    sizes = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in params.items()
    }
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    log.info("model: %s parameters in %s (%s)", f"{sum(sizes.values()):,}", dtype, parts)
