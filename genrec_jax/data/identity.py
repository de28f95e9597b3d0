"""The identity of a dataset: its name and the sha256 of its content.

The content is hashed instead of the files, so the same sequences in another format have the same
hash.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrec_jax.data.prepared import LogMetadata
from genrec_jax.data.sequences import UserSequences

CHUNK = 1 << 22  # integers that are hashed at a time


@dataclass(frozen=True)
class DatasetId:
    """The name of a dataset and the sha256 of its content, in hexadecimal digits."""

    name: str
    sha256: str


def identify(sequences: UserSequences, metadata: LogMetadata | None) -> DatasetId:
    """Identify a dataset by a hash of its sequences and, for a prepared log, the log's own ids.

    Args:
        sequences: the whole dataset, before `config.data.drop_last` shortens it.
        metadata: the log's own ids; None for a dataset with only numbers.
    """
    digest = hash_sequences(sequences)
    if metadata is not None:
        combined = hashlib.sha256(digest.encode())
        for ids in (metadata.user_ids, metadata.item_ids):
            for log_id in ids:
                encoded = log_id.encode()
                combined.update(len(encoded).to_bytes(8, "little") + encoded)
        digest = combined.hexdigest()
    return DatasetId(sequences.name, digest)


def hash_sequences(sequences: UserSequences) -> str:
    """Return the sha256 of the sequences and of the published ids of their users and items."""
    arrays = (sequences.items, sequences.offsets, sequences.user_ids, sequences.item_ids)
    return hash_integers(*arrays)


def hash_integers(*arrays: Any) -> str:
    """Return the sha256 of integer arrays and their shapes, independent of their dtype."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(np.shape(array)).encode())
        flat = np.reshape(array, -1)
        for start in range(0, len(flat), CHUNK):
            chunk = np.ascontiguousarray(flat[start : start + CHUNK], np.int64)
            digest.update(chunk.tobytes())
    return digest.hexdigest()
