"""Shapes and types are checked while testing, and the fixtures that many tests share."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

# Every annotated array argument and result of genrec_jax is checked against its shape.
hook = install_import_hook("genrec_jax", "beartype.beartype")
hook.__enter__()

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from small_training import Small  # noqa: E402

from genrec_jax.data.sequences import UserSequences  # noqa: E402
from genrec_jax.data.synthetic import SyntheticSpec, synthetic_sequences  # noqa: E402
from genrec_jax.identifiers.catalogue import Catalogue  # noqa: E402
from genrec_jax.identifiers.indexing import make_indexing  # noqa: E402
from genrec_jax.identifiers.tokenizer import train_tokenizer  # noqa: E402
from genrec_jax.training.multi_step import MultiStepTrainer  # noqa: E402

# A machine that is busy is no fault of an example's.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


# Files whose few tests take long come first, so that no worker is left alone with one.
LONG = ("test_resume.py", "test_faults.py", "test_devices.py", "test_main.py", "test_beyond_run.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


def environment_folder(variable: str) -> Path:
    """The folder that a variable names; the test is skipped where it is not set."""
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real dataset files."""
    return environment_folder("GENREC_DATA_DIR")


@pytest.fixture(scope="session")
def bart_dir() -> Path:
    """BART-base's tokenizer and config."""
    return environment_folder("GENREC_BART_DIR")


@pytest.fixture(scope="session")
def sequences() -> UserSequences:
    """60 users of 40 items."""
    return synthetic_sequences(SyntheticSpec(users=60, items=40))


@pytest.fixture(scope="session")
def catalogue(sequences: UserSequences) -> Catalogue:
    """Its names by a tokenizer of its own, several tokens an item."""
    indexing = make_indexing("random", sequences, seed=1)
    names = indexing.item_identifiers() + indexing.user_identifiers()
    return Catalogue.build(sequences, indexing, train_tokenizer(names, 40))


# ---------------------------------------------------------- the small phase of small_training.py


@pytest.fixture(scope="session")
def small(sequences: UserSequences, catalogue: Catalogue) -> Small:
    return Small.build(sequences, catalogue, rate=0.1)


@pytest.fixture(scope="session")
def still(sequences: UserSequences, catalogue: Catalogue) -> Small:
    """The same without dropout."""
    return Small.build(sequences, catalogue, rate=0.0)


@pytest.fixture(scope="session")
def trainer(small: Small) -> MultiStepTrainer:
    """One step a call. Shared, since compiling takes most of the time."""
    return small.trainer(1)


@pytest.fixture(scope="session")
def of_eights(small: Small) -> MultiStepTrainer:
    """Up to eight steps a call."""
    return small.trainer(8)
