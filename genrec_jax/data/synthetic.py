"""A synthetic catalogue whose best possible recommender is known.

Every item has a few successors, drawn once; a user starts anywhere and walks: with probability
`1 - noise` to a successor of the present item (the r-th with weight 1 / r), else to any item. The
r-th successors are a permutation of the items, so that all items are equally popular in the long
run and popularity explains nothing. The oracle knows the transition matrix and ranks by it, so no
recommender can expect more than what it reaches; the numbering of the items tells nothing.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from genrec_jax.data.sequences import Examples, UserSequences


@dataclass(frozen=True)
class SyntheticSpec:
    """How much there is of it. Lengths are drawn evenly from shortest … longest."""

    users: int = 10000
    items: int = 100
    successors: int = 5
    noise: float = 0.1
    shortest: int = 4
    longest: int = 12
    seed: int = 0


def transition_matrix(spec: SyntheticSpec) -> Float[np.ndarray, "N N"]:
    """P[i, j]: the probability that item j follows item i."""
    rng = np.random.default_rng([spec.seed, 0])
    matrix = np.full((spec.items, spec.items), spec.noise / spec.items)
    weights = 1.0 / np.arange(1, spec.successors + 1)
    weights *= (1.0 - spec.noise) / weights.sum()
    for weight in weights:
        matrix[np.arange(spec.items), rng.permutation(spec.items)] += weight
    return matrix


def synthetic_sequences(spec: SyntheticSpec) -> UserSequences:
    """Seeded walks over `transition_matrix(spec)`."""
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


def oracle_lists(
    spec: SyntheticSpec, examples: Examples, top_k: int, exclude_history: bool = False
) -> Int[np.ndarray, "n top_k"]:
    """The most probable next items of each example, best first: no ranking can expect more.

    With `exclude_history` they are the most probable of the items that the history lacks, -1 where
    there are fewer: no ranking under that rule can expect more.
    """
    order = np.argsort(-transition_matrix(spec), axis=1, kind="stable").astype(np.int32)
    last = examples.items[examples.stops - 1]
    if not exclude_history:
        return order[:, :top_k][last]
    lists = np.full((len(examples), top_k), -1, np.int32)
    for row, ranked in enumerate(lists):
        likely = order[last[row]]
        new = likely[~np.isin(likely, examples.history(row))][:top_k]
        ranked[: len(new)] = new
    return lists
