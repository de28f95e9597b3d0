"""How users and items are written: by a number, `user_22`, `item_1234`, or items by a code.

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

Or an item is written by a code of three symbols, `<a_5><b_17><c_3>`, a token each (codes.py):

    random_codes   dealt out by chance, which tells nothing
    collaborative  items that users take together begin alike; from training interactions alone
    semantic       items whose titles and attributes agree begin alike
    combined       both

Users are shuffled wherever items are numbered anew. In the order of the file a user's number says
where in the numbering of the items the user's own new items stand: on the paper's files, where
both follow the same order, nearly the number of an item that nobody had before.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.codes import code_names, code_numbers, deal_codes

NUMBER_KINDS = ("published", "random", "sequential", "title")
CODE_KINDS = ("random_codes", "collaborative", "semantic", "combined")
KINDS = (*NUMBER_KINDS, *CODE_KINDS)
TEXT_KINDS = ("title", "semantic", "combined")  # with what the log says of items in their names
HELD_OUT = 2  # items at the end of a sequence that `sequential` must not see


@dataclass(frozen=True)
class Indexing:
    """The number that each user row and item row is written with.

    `item_texts` are the names of the items where they are not written by number alone. Of items
    that are written by `codes` the number is their code, read as one.
    """

    kind: str
    user_numbers: Int[np.ndarray, " U"]
    item_numbers: Int[np.ndarray, " N"]
    item_texts: tuple[str, ...] | None = None
    codes: Int[np.ndarray, "N levels"] | None = None

    def user_names(self) -> list[str]:
        return [f"user_{number}" for number in self.user_numbers]

    def item_names(self) -> list[str]:
        if self.item_texts is not None:
            return list(self.item_texts)
        if self.codes is not None:
            return code_names(self.codes)
        return [f"item_{number}" for number in self.item_numbers]


def writing(kind: str) -> str:
    """What items are written by, in words."""
    if kind == "title":
        return "titles"
    if kind in CODE_KINDS:
        return f"{kind.removesuffix('_codes')} codes"
    return f"{kind} numbers"


def make_indexing(kind: str, sequences: UserSequences, seed: int) -> Indexing:
    """One of NUMBER_KINDS for the users and items of a dataset; `published` needs no seed.

    Of `title` only the numbers: its names are made with a tokenizer (identifiers/titles.py).
    """
    if kind == "published":
        return Indexing(kind, sequences.user_ids, sequences.item_ids)
    rng = _stream(seed)
    users = rng.permutation(sequences.user_ids)
    if kind in ("random", "title"):
        return Indexing(kind, users, rng.permutation(sequences.item_ids))
    if kind == "sequential":
        order = np.concatenate(_by_first_appearance(sequences, rng))
        numbers = np.empty_like(sequences.item_ids)
        numbers[order] = np.sort(sequences.item_ids)
        return Indexing(kind, users, numbers)
    raise ValueError(f"indexing {kind!r} is not one of {NUMBER_KINDS}")


def coded_indexing(
    kind: str, sequences: UserSequences, vectors: Float[np.ndarray, "N d"] | None, seed: int
) -> Indexing:
    """One of CODE_KINDS; users are numbered as in `random` with the same seed.

    Args:
        kind: what the vectors were made from, for the record.
        sequences: of the dataset.
        vectors: of the items, rows of length 1, or of 0 where nothing is known; None: codes are
            dealt out by chance.
        seed: of all chance.
    """
    users = _stream(seed).permutation(sequences.user_ids)
    codes = deal_codes(sequences.n_items, vectors, seed)
    return Indexing(kind, users, code_numbers(codes), codes=codes)


def _stream(seed: int) -> np.random.Generator:
    """One of its own, apart from the batches'."""
    return np.random.default_rng([seed, 0x1DE])


def _by_first_appearance(
    sequences: UserSequences, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " seen"], Int[np.ndarray, " unseen"]]:
    """Items of the training part in the order in which they come up; the others shuffled."""
    ends = np.repeat(sequences.offsets[1:], sequences.lengths)
    training = sequences.items[np.arange(len(sequences.items)) < ends - HELD_OUT]
    items, first = np.unique(training, return_index=True)
    unseen = np.setdiff1d(np.arange(sequences.n_items), items)
    return items[np.argsort(first)], rng.permutation(unseen)
