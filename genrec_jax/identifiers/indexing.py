"""How users and items are numbered, and so how they are written: `user_22`, `item_1234`.

    published   the numbers of the dataset file. On the files of the paper these leak the answer:
                items are numbered by first appearance over whole sequences, test items included.
    random      the same numbers dealt out anew by a seeded permutation of users and one of items,
                which tells nothing.
    sequential  items by first appearance over the training part alone (all but the last two items
                of every user, users in the order of the file), so that items of one user have
                near numbers; those that no training part holds come after, shuffled. What these
                numbers tell, the training interactions tell too.
    title       items by their titles, where the log has them (identifiers/titles.py). Numbers are
                dealt out as in `random`, and stand behind titles that are not unique and in the
                names of items without one.

Users are shuffled wherever items are numbered anew. In the order of the file a user's number says
where in the numbering of the items the user's own new items stand: on the paper's files, where
both follow the same order, nearly the number of an item that nobody had before.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from genrec_jax.data.sequences import UserSequences

KINDS = ("published", "random", "sequential", "title")
HELD_OUT = 2  # items at the end of a sequence that `sequential` must not see


@dataclass(frozen=True)
class Indexing:
    """The number that each user row and item row is written with.

    `item_texts` are the names of the items where they are not written by number alone.
    """

    kind: str
    user_numbers: Int[np.ndarray, " U"]
    item_numbers: Int[np.ndarray, " N"]
    item_texts: tuple[str, ...] | None = None

    def user_names(self) -> list[str]:
        return [f"user_{number}" for number in self.user_numbers]

    def item_names(self) -> list[str]:
        if self.item_texts is not None:
            return list(self.item_texts)
        return [f"item_{number}" for number in self.item_numbers]


def make_indexing(kind: str, sequences: UserSequences, seed: int) -> Indexing:
    """One of KINDS for the users and items of a dataset; `published` needs no seed.

    Of `title` only the numbers: its names are made with a tokenizer (identifiers/titles.py).
    """
    if kind == "published":
        return Indexing(kind, sequences.user_ids, sequences.item_ids)
    # A stream of its own, apart from the batches'.
    rng = np.random.default_rng([seed, 0x1DE])
    users = rng.permutation(sequences.user_ids)
    if kind in ("random", "title"):
        return Indexing(kind, users, rng.permutation(sequences.item_ids))
    if kind == "sequential":
        order = np.concatenate(_by_first_appearance(sequences, rng))
        numbers = np.empty_like(sequences.item_ids)
        numbers[order] = np.sort(sequences.item_ids)
        return Indexing(kind, users, numbers)
    raise ValueError(f"indexing {kind!r} is not one of {KINDS}")


def _by_first_appearance(
    sequences: UserSequences, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " seen"], Int[np.ndarray, " unseen"]]:
    """Items of the training part in the order in which they come up; the others shuffled."""
    ends = np.repeat(sequences.offsets[1:], sequences.lengths)
    training = sequences.items[np.arange(len(sequences.items)) < ends - HELD_OUT]
    items, first = np.unique(training, return_index=True)
    unseen = np.setdiff1d(np.arange(sequences.n_items), items)
    return items[np.argsort(first)], rng.permutation(unseen)
