"""The small phase of small_training.py, with and without dropout."""

import pytest
from small_training import Small

from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.training.resident import ResidentTrainer


@pytest.fixture(scope="session")
def small(sequences: UserSequences, catalogue: Catalogue) -> Small:
    return Small.build(sequences, catalogue, rate=0.1)


@pytest.fixture(scope="session")
def still(sequences: UserSequences, catalogue: Catalogue) -> Small:
    """The same without dropout."""
    return Small.build(sequences, catalogue, rate=0.0)


@pytest.fixture(scope="session")
def trainer(small: Small) -> ResidentTrainer:
    """One step a call. Shared, since compiling takes most of the time."""
    return small.trainer(1)


@pytest.fixture(scope="session")
def of_eights(small: Small) -> ResidentTrainer:
    """Up to eight steps a call."""
    return small.trainer(8)
