"""Lines to beat: recommenders that learn nothing."""

import numpy as np
from jaxtyping import Int

from genrec_jax.data.sequences import Examples, UserSequences


def popularity_lists(
    sequences: UserSequences, examples: Examples, top_k: int
) -> Int[np.ndarray, "n top_k"]:
    """The same list for everybody: the items with the most interactions in the training part.

    Ties go to the smaller row. The last two items of every user are not counted.
    """
    last = sequences.offsets[1:]
    counts = np.bincount(sequences.items, minlength=sequences.n_items)
    for hidden in (last - 1, last - 2):
        counts -= np.bincount(sequences.items[hidden], minlength=sequences.n_items)
    best = np.full(top_k, -1, dtype=np.int32)  # -1 where the catalogue has fewer items
    best[: len(counts)] = np.argsort(-counts, kind="stable")[:top_k]
    return np.broadcast_to(best, (len(examples), top_k))


def next_number_lists(
    numbers: Int[np.ndarray, " N"], examples: Examples, top_k: int
) -> Int[np.ndarray, "n top_k"]:
    """The items whose numbers follow the largest number of the history: + 1, + 2, ….

    What this reaches is what the numbering gives away. Numbers that no item has leave -1.

    Args:
        numbers: the number that each item is written with.
        examples: the histories.
        top_k: length of a list.
    """
    largest = np.zeros(len(examples), numbers.dtype)
    histories = [examples.history(row) for row in range(len(examples))]
    filled = np.array([len(history) > 0 for history in histories])
    largest[filled] = [numbers[history].max() for history in histories if len(history)]
    row_of = np.full(int(numbers.max()) + 1 + top_k, -1, dtype=np.int32)
    row_of[numbers] = np.arange(len(numbers))
    return row_of[largest[:, None] + np.arange(1, top_k + 1)]
