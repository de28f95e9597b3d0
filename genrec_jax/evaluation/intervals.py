"""Bootstrap confidence intervals of metrics over users.

Each resample draws n of the n users with replacement. A metric depends on a user only through the
ranks of the target (1 … k, or missing) in the compared rankings. A resample is therefore fully
described by the number of users with each combination of ranks, and these counts follow a
multinomial distribution. Drawing the counts directly is the exact bootstrap, at a cost that does
not depend on the number of users.

The intervals are the 2.5 % and 97.5 % quantiles of the resampled metrics. They quantify the
variation over users, but not over training seeds. If no user has a hit, the interval is [0, 0],
although hit rates up to 3 / n are compatible with n users without a hit.
"""

import numpy as np
from jaxtyping import Float

from genrec_jax.evaluation.metrics import gains

RESAMPLES = 5000
LEVELS = (2.5, 97.5)  # percentiles

Interval = list[float]  # [low, high], a list because it is stored as JSON


def intervals(
    ranks: Float[np.ndarray, " n"], longest: int, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Return the 95 % confidence interval of every metric.

    Args:
        ranks: the rank of each user's target, infinity if it is missing.
        longest: the length of the rankings.
        seed: the seed of the resamples.
        resamples: the number of resamples.
    """
    cells, counts = _resampled(ranks[:, None], seed, resamples)
    table = gains(cells[:, 0], longest)
    return {name: _quantiles(counts @ values / len(ranks)) for name, values in table.items()}


def difference_intervals(
    ranks: Float[np.ndarray, " n"],
    other_ranks: Float[np.ndarray, " n"],
    longest: int,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Return the 95 % confidence interval of each metric's paired difference.

    Args:
        ranks: the rank of each user's target in the first system's rankings.
        other_ranks: the same users' ranks in the second system's rankings, whose metrics are
            subtracted.
        longest: the length of the rankings.
        seed: the seed of the resamples.
        resamples: the number of resamples.
    """
    cells, counts = _resampled(np.stack([ranks, other_ranks], axis=1), seed, resamples)
    first, second = (gains(cells[:, column], longest) for column in (0, 1))
    return {name: _quantiles(counts @ (first[name] - second[name]) / len(ranks)) for name in first}


def _resampled(
    ranks: Float[np.ndarray, "n systems"], seed: int, resamples: int
) -> tuple[Float[np.ndarray, "cells systems"], np.ndarray]:
    """Return the distinct rows of `ranks`, and their counts in each resample [resamples, cells]."""
    cells, counts = np.unique(ranks, axis=0, return_counts=True)
    rng = np.random.default_rng([seed, resamples])
    return cells, rng.multinomial(len(ranks), counts / len(ranks), size=resamples)


def _quantiles(values: Float[np.ndarray, " resamples"]) -> Interval:
    return [float(value) for value in np.percentile(values, LEVELS)]
