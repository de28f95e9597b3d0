"""HR@k and NDCG@k from ranked lists, one target a user, over all items (section 7.2).

With a single relevant item the ideal DCG is 1, so NDCG@k = 1 / log2(rank + 1) for a hit at
`rank` <= k and 0 otherwise.
"""

import numpy as np
from jaxtyping import Float, Int

HIT_CUTOFFS = (1, 5, 10, 20)
NDCG_CUTOFFS = (5, 10, 20)


def ranks_of_targets(
    lists: Int[np.ndarray, "n k"], targets: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """The place of each target in its list, from 1; infinity where it is missing.

    An item that a list names twice counts where it stands first.
    """
    hits = (lists == targets[:, None]) & (lists >= 0)  # -1 is an empty place, and no target
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, np.inf)


def gains(ranks: Float[np.ndarray, " n"], longest: int) -> dict[str, Float[np.ndarray, " n"]]:
    """What every user adds to each metric (`HR@5`, …) whose cutoff is at most `longest`."""
    discounts = 1.0 / np.log2(ranks + 1.0)
    hits = {f"HR@{k}": np.where(ranks <= k, 1.0, 0.0) for k in HIT_CUTOFFS if k <= longest}
    return hits | {
        f"NDCG@{k}": np.where(ranks <= k, discounts, 0.0) for k in NDCG_CUTOFFS if k <= longest
    }


def metric_sums(ranks: Float[np.ndarray, " n"], longest: int) -> dict[str, float]:
    """Sums over users of every metric; add them up, then divide."""
    return {name: float(np.sum(values)) for name, values in gains(ranks, longest).items()}


def metrics(lists: Int[np.ndarray, "n k"], targets: Int[np.ndarray, " n"]) -> dict[str, float]:
    """The means over the n users."""
    sums = metric_sums(ranks_of_targets(lists, targets), lists.shape[1])
    return {name: value / len(targets) for name, value in sums.items()}
