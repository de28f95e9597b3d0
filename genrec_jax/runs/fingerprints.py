"""What a run must find again when it goes on: its dataset, numbering, tokenizer and tokens."""

import hashlib

from genrec_jax.data.identity import hash_integers, hash_sequences
from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.catalogue import Catalogue


def of_dataset(sequences: UserSequences) -> dict[str, str]:
    """By name, the sha256 of all that the dataset says; not of the files that said it."""
    return {"dataset": hash_sequences(sequences)}


def of_run(sequences: UserSequences, catalogue: Catalogue) -> dict[str, str]:
    """By name, the sha256 of the dataset and of all that its identifiers are made of."""
    indexing = catalogue.indexing
    numbering = hash_integers(indexing.user_numbers, indexing.item_numbers)
    found = {**of_dataset(sequences), "numbering": numbering}
    if catalogue.text is None:
        return found
    table = catalogue.table
    tokenizer = catalogue.vocabulary.tokenizer.to_str().encode()
    return {
        **found,
        "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        "token table": hash_integers(table.tokens, table.lengths),
    }
