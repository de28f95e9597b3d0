"""HR@k and NDCG@k of rankings over all items with one target per user (section 7.2).

With a single relevant item the ideal DCG is 1, so NDCG@k = 1 / log2(rank + 1) for a hit at
`rank` ≤ k and 0 otherwise.
"""

import numpy as np
from jaxtyping import Float, Int

HIT_CUTOFFS = (1, 5, 10, 20)
NDCG_CUTOFFS = (5, 10, 20)


def ranks_of_targets(
    rankings: Int[np.ndarray, "n k"], targets: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return the rank of each target in its ranking, from 1; infinity if it is missing.

    If a ranking contains an item twice, the first occurrence counts.

    Args:
        rankings: item rows, best first, padded with -1.
        targets: the target item row of each user.
    """
    hits = (rankings == targets[:, None]) & (rankings >= 0)  # -1 is padding, never a target
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, np.inf)


def gains(ranks: Float[np.ndarray, " n"], longest: int) -> dict[str, Float[np.ndarray, " n"]]:
    """Return the contribution of every user to each metric with a cutoff of at most `longest`.

    Args:
        ranks: the rank of each user's target, infinity if it is missing.
        longest: the length of the rankings.
    """
    discounts = 1.0 / np.log2(ranks + 1.0)
    hits = {f"HR@{k}": np.where(ranks <= k, 1.0, 0.0) for k in HIT_CUTOFFS if k <= longest}
    return hits | {
        f"NDCG@{k}": np.where(ranks <= k, discounts, 0.0) for k in NDCG_CUTOFFS if k <= longest
    }


def metric_sums(ranks: Float[np.ndarray, " n"], longest: int) -> dict[str, float]:
    """Return the sum of each metric over users, so that sums of batches can be added.

    Args:
        ranks: the rank of each user's target, infinity if it is missing.
        longest: the length of the rankings.
    """
    return {name: float(np.sum(values)) for name, values in gains(ranks, longest).items()}


def metrics(rankings: Int[np.ndarray, "n k"], targets: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Return the mean of each metric over the n users.

    Args:
        rankings: item rows, best first, padded with -1.
        targets: the target item row of each user.
    """
    sums = metric_sums(ranks_of_targets(rankings, targets), rankings.shape[1])
    return {name: value / len(targets) for name, value in sums.items()}
