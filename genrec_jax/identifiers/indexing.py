"""The identifiers of users and items: numbers (`user_22`, `item_1234`), titles or codes.

    published   the numbers of the dataset file. In the paper's files these leak the test items:
                items are numbered by first appearance over whole sequences, test items included.
    random      the same numbers, randomly reassigned by one seeded permutation of the users and
                one of the items. They carry no information.
    sequential  items are numbered by first appearance in the training parts (all but the last two
                items of every user, users in the order of the file), so that a user's items have
                close numbers. Items without training interactions follow in random order. These
                numbers carry no information beyond the training interactions.
    title       the items' titles, if the log has them (titles.py). Numbers are assigned as in
                `random`. They are appended to titles that are not unique, and identify items
                without a title.

A code has three symbols, each of which is one token, as in `<a_5><b_17><c_3>` (codes.py):

    random_codes   codes are randomly assigned and carry no information
    collaborative  items that occur together in training sequences share a prefix
    semantic       items with similar titles and attributes share a prefix
    combined       codes from both kinds of similarity

Users are renumbered at random whenever items are renumbered. In the order of the file, a user's
number reveals the numbers of the user's new items: in the paper's files, where both follow the same
order, it is close to the number of an item that no earlier user has.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.codes import assign_codes, code_identifiers, code_numbers

NUMBER_KINDS = ("published", "random", "sequential", "title")
CODE_KINDS = ("random_codes", "collaborative", "semantic", "combined")
KINDS = (*NUMBER_KINDS, *CODE_KINDS)
TEXT_KINDS = ("title", "semantic", "combined")  # made from titles or attributes
EXCLUDED = 2  # the validation and test item at the end of a sequence, not used by `sequential`


@dataclass(frozen=True)
class Indexing:
    """The numbers of users and items, from which their identifiers are made.

    Attributes:
        kind: one of KINDS.
        user_numbers: the number of each user row.
        item_numbers: the number of each item row; for codes, the code read as a number.
        item_texts: the identifier of each item row if identifiers are titles, else None.
        codes: the code of each item row if identifiers are codes, else None.
    """

    kind: str
    user_numbers: Int[np.ndarray, " U"]
    item_numbers: Int[np.ndarray, " N"]
    item_texts: tuple[str, ...] | None = None
    codes: Int[np.ndarray, "N levels"] | None = None

    def user_identifiers(self) -> list[str]:
        """Return the identifier of every user."""
        return [f"user_{number}" for number in self.user_numbers]

    def item_identifiers(self) -> list[str]:
        """Return the identifier of every item."""
        if self.item_texts is not None:
            return list(self.item_texts)
        if self.codes is not None:
            return code_identifiers(self.codes)
        return [f"item_{number}" for number in self.item_numbers]


def describe_kind(kind: str) -> str:
    """Return a phrase for messages, such as "random numbers" for the kind `random`."""
    if kind == "title":
        return "titles"
    if kind in CODE_KINDS:
        return f"{kind.removesuffix('_codes')} codes"
    return f"{kind} numbers"


def make_indexing(kind: str, sequences: UserSequences, seed: int) -> Indexing:
    """Number the users and items of a dataset.

    Args:
        kind: one of NUMBER_KINDS. For `title` the result contains only the numbers, because
            titles.py needs a tokenizer to make the titles unique.
        sequences: the dataset.
        seed: the seed of the random order; unused by `published`.

    Raises:
        ValueError: `kind` is not one of NUMBER_KINDS.
    """
    if kind == "published":
        return Indexing(kind, sequences.user_ids, sequences.item_ids)
    rng = _generator(seed)
    users = rng.permutation(sequences.user_ids)
    if kind in ("random", "title"):
        return Indexing(kind, users, rng.permutation(sequences.item_ids))
    if kind == "sequential":
        order = np.concatenate(_by_first_appearance(sequences, rng))
        numbers = np.empty_like(sequences.item_ids)
        numbers[order] = np.sort(sequences.item_ids)
        return Indexing(kind, users, numbers)
    raise ValueError(f"kind: found {kind!r}, expected one of {NUMBER_KINDS}")


def coded_indexing(
    kind: str, sequences: UserSequences, vectors: Float[np.ndarray, "N d"] | None, seed: int
) -> Indexing:
    """Assign codes to the items; users are numbered as in `random` with the same seed.

    Args:
        kind: one of CODE_KINDS, which the result stores.
        sequences: the dataset.
        vectors: unit item vectors, 0 for items without information; None assigns all codes at
            random.
        seed: the seed of user numbers and codes.
    """
    users = _generator(seed).permutation(sequences.user_ids)
    codes = assign_codes(sequences.n_items, vectors, seed)
    return Indexing(kind, users, code_numbers(codes), codes=codes)


def _generator(seed: int) -> np.random.Generator:
    """Return a random generator whose stream is independent of the batches' order."""
    return np.random.default_rng([seed, 0x1DE])


def _by_first_appearance(
    sequences: UserSequences, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " seen"], Int[np.ndarray, " unseen"]]:
    """Return the training items by first appearance, and the remaining items in random order."""
    ends = np.repeat(sequences.offsets[1:], sequences.lengths)
    training = sequences.items[np.arange(len(sequences.items)) < ends - EXCLUDED]
    items, first = np.unique(training, return_index=True)
    unseen = np.setdiff1d(np.arange(sequences.n_items), items)
    return items[np.argsort(first)], rng.permutation(unseen)
