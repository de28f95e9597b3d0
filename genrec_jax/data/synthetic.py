"""A synthetic dataset whose best possible recommender is known.

Every item has a few random successors. A user starts at a random item and then moves to a successor
of the current item with probability `1 - noise` (the r-th with weight 1 / r), and to a random item
otherwise. The r-th successors are a permutation of the items, so that all items are equally popular
in the long run and popularity explains nothing. The oracle ranks by the transition matrix, so no
recommender can have better expected metrics. The numbering of the items carries no information.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from genrec_jax.data.sequences import Examples, UserSequences


@dataclass(frozen=True)
class SyntheticSpec:
    """The parameters of a synthetic dataset."""

    users: int = 10000  # number of users
    items: int = 100  # number of items
    successors: int = 5  # number of likely next items of each item
    noise: float = 0.1  # probability of a random next item
    shortest: int = 4  # shortest sequence; lengths are uniform from `shortest` to `longest`
    longest: int = 12  # longest sequence
    seed: int = 0


def transition_matrix(spec: SyntheticSpec) -> Float[np.ndarray, "N N"]:
    """Return P[i, j], the probability that item j follows item i."""
    rng = np.random.default_rng([spec.seed, 0])
    matrix = np.full((spec.items, spec.items), spec.noise / spec.items)
    weights = 1.0 / np.arange(1, spec.successors + 1)
    weights *= (1.0 - spec.noise) / weights.sum()
    for weight in weights:
        matrix[np.arange(spec.items), rng.permutation(spec.items)] += weight
    return matrix


def synthetic_sequences(spec: SyntheticSpec) -> UserSequences:
    """Generate a dataset of random walks over `transition_matrix(spec)`, one per user."""
    rng = np.random.default_rng([spec.seed, 1])
    cumulative = np.cumsum(transition_matrix(spec), axis=1)
    lengths = rng.integers(spec.shortest, spec.longest + 1, spec.users)
    walk = np.empty((spec.users, spec.longest), dtype=np.int32)
    walk[:, 0] = rng.integers(spec.items, size=spec.users)
    for step in range(1, spec.longest):
        draws = rng.random(spec.users)[:, None] * cumulative[:, -1:][walk[:, step - 1]]
        walk[:, step] = np.argmax(draws < cumulative[walk[:, step - 1]], axis=1)
    kept = np.arange(spec.longest) < lengths[:, None]
    return UserSequences(
        name="synthetic",
        items=walk[kept],
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        user_ids=np.arange(1, spec.users + 1),
        item_ids=np.arange(1, spec.items + 1),
    )


def oracle_rankings(
    spec: SyntheticSpec, examples: Examples, top_k: int, exclude_history: bool = False
) -> Int[np.ndarray, "n top_k"]:
    """Rank the next items of each example by their true probability, best first.

    No ranking has better expected metrics. With `exclude_history`, no ranking without the items of
    the history has better expected metrics.

    Args:
        spec: the parameters of the dataset.
        examples: n examples of the dataset.
        top_k: the number of items per ranking.
        exclude_history: whether items of the history are excluded. Rankings with fewer than `top_k`
            items are padded with -1.
    """
    order = np.argsort(-transition_matrix(spec), axis=1, kind="stable").astype(np.int32)
    last = examples.items[examples.stops - 1]
    if not exclude_history:
        return order[:, :top_k][last]
    rankings = np.full((len(examples), top_k), -1, np.int32)
    for row, ranking in enumerate(rankings):
        likely = order[last[row]]
        new = likely[~np.isin(likely, examples.history(row))][:top_k]
        ranking[: len(new)] = new
    return rankings
