"""What a run must find again when it goes on: its dataset, numbering, tokenizer and tokens."""

import hashlib
from typing import Any

import numpy as np

from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.catalogue import Catalogue

PIECE = 1 << 22  # numbers that are hashed together


def of_dataset(sequences: UserSequences) -> dict[str, str]:
    """By name, the sha256 of all that the dataset says; not of the files that said it."""
    arrays = (sequences.items, sequences.offsets, sequences.user_ids, sequences.item_ids)
    return {"dataset": _of_numbers(*arrays)}


def of_run(sequences: UserSequences, catalogue: Catalogue) -> dict[str, str]:
    """The same of all that a run must find again."""
    indexing, table = catalogue.indexing, catalogue.table
    tokenizer = catalogue.vocabulary.tokenizer.to_str().encode()
    return {
        **of_dataset(sequences),
        "numbering": _of_numbers(indexing.user_numbers, indexing.item_numbers),
        "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        "token table": _of_numbers(table.tokens, table.lengths),
    }


def _of_numbers(*arrays: Any) -> str:
    """Whatever width they have in memory."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(np.shape(array)).encode())
        flat = np.reshape(array, -1)
        for start in range(0, len(flat), PIECE):
            digest.update(np.ascontiguousarray(flat[start : start + PIECE], np.int64).tobytes())
    return digest.hexdigest()
