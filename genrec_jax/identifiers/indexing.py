"""How users and items are numbered, and so how they are written: `user_22`, `item_1234`.

`published` takes the numbers of the dataset file. On the files of the paper these leak the answer:
items are numbered by first appearance over whole sequences, test items included. `random` deals
the same numbers out anew by a seeded permutation of users and of items, which tells nothing.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from genrec_jax.data.sequences import UserSequences

KINDS = ("published", "random")


@dataclass(frozen=True)
class Indexing:
    """The number that each user row and item row is written with."""

    kind: str
    user_numbers: Int[np.ndarray, " U"]
    item_numbers: Int[np.ndarray, " N"]

    def user_names(self) -> list[str]:
        return [f"user_{number}" for number in self.user_numbers]

    def item_names(self) -> list[str]:
        return [f"item_{number}" for number in self.item_numbers]


def make_indexing(kind: str, sequences: UserSequences, seed: int) -> Indexing:
    """One of KINDS for the users and items of a dataset; the seed is used by `random`."""
    if kind == "published":
        return Indexing(kind, sequences.user_ids, sequences.item_ids)
    if kind == "random":
        rng = np.random.default_rng([seed, 0x1DE])  # a stream of its own, apart from the batches'
        return Indexing(
            kind, rng.permutation(sequences.user_ids), rng.permutation(sequences.item_ids)
        )
    raise ValueError(f"indexing {kind!r} is not one of {KINDS}")
