"""Fingerprints of a run's data, which must be unchanged when the run is resumed or evaluated."""

import hashlib

from genrec_jax.data.identity import hash_integers, hash_sequences
from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.catalogue import Catalogue


def of_dataset(sequences: UserSequences) -> dict[str, str]:
    """Return the sha256 of a dataset's content, whatever file format it was read from.

    Returns:
        The key `dataset` → sha256.
    """
    return {"dataset": hash_sequences(sequences)}


def of_run(sequences: UserSequences, catalogue: Catalogue) -> dict[str, str]:
    """Return the sha256 of a run's dataset, numbering, tokenizer and token table.

    Args:
        sequences: the run's dataset.
        catalogue: the run's users and items with their identifiers.

    Returns:
        Name → sha256; `tokenizer` and `token table` are missing if the model reads no identifiers.
    """
    indexing = catalogue.indexing
    numbering = hash_integers(indexing.user_numbers, indexing.item_numbers)
    hashes = {**of_dataset(sequences), "numbering": numbering}
    if catalogue.text is None:
        return hashes
    table = catalogue.table
    tokenizer = catalogue.vocabulary.tokenizer.to_str().encode()
    return {
        **hashes,
        "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        "token table": hash_integers(table.tokens, table.lengths),
    }
