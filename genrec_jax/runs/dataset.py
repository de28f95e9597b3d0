"""The dataset that a config names."""

import logging
from pathlib import Path

from genrec_jax.core.errors import InputError
from genrec_jax.data.datasets import load_named
from genrec_jax.data.prepared import RECORD, Names, is_prepared, read_names, read_prepared
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
    """Raises InputError for a file that is missing, corrupt, ill-formed or too short to cut."""
    return without_last(whole_sequences(config), config.drop_last)


def whole_sequences(config: DataConfig) -> UserSequences:
    if config.name == "synthetic":
        return synthetic_sequences(synthetic_spec(config))
    if config.name == "file":
        path = Path(config.file).expanduser()
        if is_prepared(path):
            return read_prepared(path)
        if is_tfds(path):
            from genrec_jax.data.tfds_reader import read_tfds  # here: few runs need the library

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


def load_names(config: DataConfig) -> Names | None:
    """The log's own ids and titles; None for datasets that have no other names than numbers.

    Raises:
        InputError: a folder that is damaged.
    """
    path = Path(config.file).expanduser()
    if config.name == "file" and is_prepared(path):
        return read_names(path)
    if config.name == "file" and is_tfds(path):
        from genrec_jax.data.tfds_reader import read_tfds_names

        return read_tfds_names(path)
    return None


def is_tfds(folder: Path) -> bool:
    return (folder / TFDS_RECORD).is_file()


def synthetic_spec(config: DataConfig) -> SyntheticSpec:
    return SyntheticSpec(
        users=config.synthetic_users, items=config.synthetic_items, seed=config.synthetic_seed
    )


def log_statistics(sequences: UserSequences) -> None:
    """The figures of the paper's Table 2."""
    n = len(sequences.items)
    log.info(
        "dataset %s: %d users, %d items, %d interactions, %.1f items a user, %.1f users an item, "
        "longest history %d",
        sequences.name,
        sequences.n_users,
        sequences.n_items,
        n,
        n / sequences.n_users,
        n / sequences.n_items,
        sequences.lengths.max(),
    )


def check_answers(config: RunConfig, sequences: UserSequences) -> None:
    """Raise InputError for data that has none to learn from, or some that the model cannot give."""
    finetune, holdout = config.finetune, config.finetune.holdout
    if finetune.epochs and finetune.uses_prefixes and sequences.lengths.max() < holdout + 2:
        raise InputError(
            f"{sequences.name}: found no user with more than {sequences.lengths.max()} items, "
            f"expected some with {holdout + 2} for finetune.targets=prefix_augmentation: one to "
            f"read, one to predict, {holdout} for validation and test"
        )
    load_family(config.model.family).check_data(config, sequences)
