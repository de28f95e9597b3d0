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
    best = np.argsort(-counts, kind="stable")[:top_k].astype(np.int32)
    return np.broadcast_to(best, (len(examples), len(best)))
