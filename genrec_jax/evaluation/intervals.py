"""Bootstrap intervals: how far a figure may be off because these users were asked and not others.

The bootstrap draws n users out of the n with replacement, again and again. A user counts only by
the ranks of the target (1 … k, or missing) in the lists that are compared, so a resample is fully
told by how many users fall into each cell of the table of ranks, and these counts are multinomial.
Drawing them at once is the same bootstrap, not an approximation to it, at a cost that does not
depend on the number of users.

The intervals are the 2.5 % and 97.5 % quantiles of the resampled figures. They speak of the users,
not of the seed: another training run moves a figure too. Where no user has a hit the interval is
[0, 0]; n users without a hit are likely up to a rate of 3 / n.
"""

import numpy as np
from jaxtyping import Float

from genrec_jax.evaluation.metrics import gains

RESAMPLES = 5000
LEVELS = (2.5, 97.5)

Interval = list[float]  # [low, high]: a list, as JSON has it


def intervals(
    ranks: Float[np.ndarray, " n"], longest: int, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """The 95 % interval of every metric.

    Args:
        ranks: the place of each user's target in the list, infinity where it is missing.
        longest: length of the lists.
        seed: of the resamples.
        resamples: how many.
    """
    cells, counts = _resampled(ranks[:, None], seed, resamples)
    table = gains(cells[:, 0], longest)
    return {name: _quantiles(counts @ values / len(ranks)) for name, values in table.items()}


def difference_intervals(
    ranks: Float[np.ndarray, " n"],
    others: Float[np.ndarray, " n"],
    longest: int,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """The 95 % interval of (metric of one - metric of the other), drawn on the same users."""
    cells, counts = _resampled(np.stack([ranks, others], axis=1), seed, resamples)
    one, other = (gains(cells[:, column], longest) for column in (0, 1))
    return {name: _quantiles(counts @ (one[name] - other[name]) / len(ranks)) for name in one}


def _resampled(
    ranks: Float[np.ndarray, "n systems"], seed: int, resamples: int
) -> tuple[Float[np.ndarray, "cells systems"], np.ndarray]:
    """The different rows of `ranks`, and how often each is drawn: [resamples, cells]."""
    cells, counts = np.unique(ranks, axis=0, return_counts=True)
    rng = np.random.default_rng([seed, resamples])
    return cells, rng.multinomial(len(ranks), counts / len(ranks), size=resamples)


def _quantiles(figures: Float[np.ndarray, " resamples"]) -> Interval:
    return [float(value) for value in np.percentile(figures, LEVELS)]
