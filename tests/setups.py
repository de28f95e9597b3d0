"""A model with its catalogue, as rankers take it, from a shape alone."""

from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.genrec.config import Config, ModelConfig
from genrec_jax.models.genrec.family import FAMILY
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.runs.model import ModelSetup


def genrec_setup(catalogue: Catalogue, shape: GenRecShape, max_tokens: int = 0) -> ModelSetup:
    """The paper's model; `max_tokens` of its encoder, or as many as it has positions."""
    config = Config(model=ModelConfig(max_tokens=max_tokens or shape.max_positions))
    return ModelSetup(FAMILY, config, shape, catalogue)
