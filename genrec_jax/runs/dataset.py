"""Load the dataset of a config."""

import logging
from pathlib import Path

from genrec_jax.core.errors import InputError
from genrec_jax.data.datasets import load_named
from genrec_jax.data.prepared import (
    RECORD,
    LogMetadata,
    is_prepared,
    read_log_metadata,
    read_prepared,
)
from genrec_jax.data.sequences import (
    UserSequences,
    read_sequence_file,
    without_last,
)
from genrec_jax.data.synthetic import SyntheticSpec, synthetic_sequences
from genrec_jax.models import load_family
from genrec_jax.models.run_config import DataConfig, RunConfig

log = logging.getLogger(__name__)

TFDS_RECORD = "dataset_info.json"


def load_sequences(config: DataConfig) -> UserSequences:
    """Load the interactions that a run uses, without the last `drop_last` items of each user.

    Raises:
        InputError: a file is missing, corrupt or malformed, or a user has too few items.
    """
    return without_last(load_full_sequences(config), config.drop_last)


def load_full_sequences(config: DataConfig) -> UserSequences:
    """Load all interactions of a dataset, before `drop_last` is applied.

    Raises:
        InputError: a file is missing, corrupt or malformed.
    """
    if config.name == "synthetic":
        return synthetic_sequences(synthetic_spec(config))
    if config.name == "file":
        path = Path(config.file).expanduser()
        if is_prepared(path):
            return read_prepared(path)
        if is_tfds(path):
            from genrec_jax.data.tfds_reader import read_tfds  # local: few runs need it

            return read_tfds(path)
        expected = "expected a prepared dataset, a tensorflow-datasets folder or a sequence file"
        if path.is_dir():
            raise InputError(
                f"config.data.file: found neither {RECORD} nor {TFDS_RECORD} in the folder {path}, "
                f"{expected}"
            )
        if not path.exists():
            raise InputError(f"config.data.file: found nothing at {path}, {expected}")
        return read_sequence_file(path, path.stem)
    return load_named(config.name, config.dir)


def load_log_metadata(config: DataConfig) -> LogMetadata | None:
    """Read the original ids and the titles of a dataset's users and items.

    Returns:
        The metadata; None for datasets whose users and items are only numbered.

    Raises:
        InputError: the dataset's folder is damaged.
    """
    path = Path(config.file).expanduser()
    if config.name == "file" and is_prepared(path):
        return read_log_metadata(path)
    if config.name == "file" and is_tfds(path):
        from genrec_jax.data.tfds_reader import read_tfds_log_metadata

        return read_tfds_log_metadata(path)
    return None


def is_tfds(folder: Path) -> bool:
    """Return whether a folder contains a tensorflow-datasets dataset."""
    return (folder / TFDS_RECORD).is_file()


def synthetic_spec(config: DataConfig) -> SyntheticSpec:
    """Return the size and the seed of the synthetic dataset of a config."""
    return SyntheticSpec(
        users=config.synthetic_users, items=config.synthetic_items, seed=config.synthetic_seed
    )


def log_statistics(sequences: UserSequences) -> None:
    """Log the dataset statistics of Table 2 of the GenRec paper."""
    n = len(sequences.items)
    log.info(
        "dataset %s: %d users, %d items, %d interactions, %.1f items per user, "
        "%.1f users per item, longest history %d",
        sequences.name,
        sequences.n_users,
        sequences.n_items,
        n,
        n / sequences.n_users,
        n / sequences.n_items,
        sequences.lengths.max(),
    )


def check_answers(config: RunConfig, sequences: UserSequences) -> None:
    """Check that the dataset has training targets and that the model can predict its items.

    Args:
        config: the run's config.
        sequences: the run's dataset.

    Raises:
        InputError: all users have too few items, or the model family does not support the data.
    """
    finetune, n_excluded = config.finetune, config.finetune.n_excluded
    if finetune.epochs and finetune.uses_prefixes and sequences.lengths.max() < n_excluded + 2:
        raise InputError(
            f"{sequences.name}: found no user with more than {sequences.lengths.max()} items, "
            f"expected users with {n_excluded + 2} for finetune.targets=prefix_augmentation: one "
            f"input item, one target item, and {n_excluded} for validation and test"
        )
    load_family(config.model.family).check_data(config, sequences)
