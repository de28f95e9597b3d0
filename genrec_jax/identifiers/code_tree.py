"""Balanced hierarchical k-means over item vectors; the path to an item in the tree is its code.

Every node splits its n items over `alphabet` children by spherical k-means with at most
⌈n / alphabet⌉ items per cluster, so that the tree has room for all items. At the last level, the
items of a node receive different symbols at random.

The assignment maximises the sum of the items' cosines with the centres of their clusters, subject
to the capacity. It is solved by *prices*: the price of a cluster with too much demand rises until
the demand is even (Sinkhorn iteration on an n × alphabet matrix; the Hungarian method would need
n × n). Every item is then assigned to the cluster with the largest cosine minus price. A cluster
that still exceeds its capacity keeps the items that would lose most elsewhere.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from threadpoolctl import threadpool_limits

ROUNDS = 20  # maximum number of k-means rounds
PRICE_STEPS = 12  # price updates per round, from the previous round's prices
MIN_GAIN = 1e-4  # relative gain of a round below which k-means stops
TEMPERATURE = 0.02  # temperature of the softmax over clusters, on the scale of a cosine


@threadpool_limits.wrap(limits=1, user_api="blas")
def tree_codes(
    vectors: Float[np.ndarray, "n d"], alphabet: int, levels: int, seed: int
) -> Int[np.ndarray, "n levels"]:
    """Assign a unique code to every item; the result is bit-identical on any number of cores.

    Args:
        vectors: unit item vectors; n must be at most alphabet ** levels.
        alphabet: the number of symbols per level.
        levels: the number of levels, which is the length of a code.
        seed: the seed of the initial centres and of the symbols at the last level.

    Returns:
        The symbol of every item at every level, from 0 to alphabet - 1.
    """
    assert len(vectors) <= alphabet**levels
    rng = np.random.default_rng([seed, 0x7EE])
    codes = np.zeros((len(vectors), levels), dtype=np.int32)
    nodes = [np.arange(len(vectors))]
    for level in range(levels - 1):
        children = []
        for rows in nodes:
            symbols = balanced_clusters(vectors[rows], alphabet, rng)
            codes[rows, level] = symbols
            children += [rows[symbols == symbol] for symbol in np.unique(symbols)]
        nodes = children
    for rows in nodes:
        codes[rows, -1] = rng.permutation(alphabet)[: len(rows)]
    return codes


def balanced_clusters(
    vectors: Float[np.ndarray, "n d"], k: int, rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Assign every row to one of k clusters of at most ⌈n / k⌉ rows."""
    n = len(vectors)
    if n <= k:
        return rng.permutation(k)[:n]
    capacity = -(-n // k)
    centres = _initial_centres(vectors, k, rng)
    prices = np.zeros(k, np.float32)
    best, best_score = np.zeros(n, np.int64), -np.inf
    for step in range(ROUNDS):
        cosines = vectors @ centres.T
        prices = _balance_prices(cosines, prices, PRICE_STEPS if step else 5 * PRICE_STEPS)
        clusters = _assign(cosines - prices, capacity)
        score = float(cosines[np.arange(n), clusters].sum())
        if score <= best_score * (1 + MIN_GAIN):
            break
        best, best_score = clusters, score
        members = sparse.csr_array((np.ones(n, np.float32), (clusters, np.arange(n))), (k, n))
        sums = members @ vectors
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return best


def _initial_centres(
    vectors: Float[np.ndarray, "n d"], k: int, rng: np.random.Generator
) -> Float[np.ndarray, "k d"]:
    """Choose centres by k-means++, with probability proportional to the squared distance.

    The distance of a vector is that to its nearest centre so far.
    """
    chosen = [int(rng.integers(len(vectors)))]
    distance = np.full(len(vectors), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, np.maximum(1 - vectors @ vectors[chosen[-1]], 0))
        cumulative = np.cumsum(distance)
        if cumulative[-1] <= 0:  # there are fewer distinct vectors than centres
            chosen.append(int(rng.integers(len(vectors))))
            continue
        draw = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
        chosen.append(min(int(draw), len(vectors) - 1))
    return vectors[chosen]


def _balance_prices(
    cosines: Float[np.ndarray, "n k"], prices: Float[np.ndarray, " k"], steps: int
) -> Float[np.ndarray, " k"]:
    """Return prices at which all clusters have about the same demand."""
    n, k = cosines.shape
    for _ in range(steps):
        weights = (cosines - prices) / TEMPERATURE
        weights -= weights.max(axis=1, keepdims=True)
        np.exp(weights, out=weights)
        demand = (1 / weights.sum(axis=1)) @ weights
        prices = prices + TEMPERATURE * np.log(np.maximum(demand * (k / n), 1e-6))
    return prices.astype(np.float32)


def _assign(gains: Float[np.ndarray, "n k"], capacity: int) -> Int[np.ndarray, " n"]:
    """Assign every row to its column of largest gain, with at most `capacity` rows per column.

    In each round, every unassigned row chooses its best column with remaining capacity. A column
    chosen by too many rows keeps those that would lose most with their second choice.
    """
    n, k = gains.shape
    gains = gains.copy()
    assigned = np.full(n, -1)
    remaining, capacities = np.arange(n), np.full(k, capacity)
    while len(remaining):
        chosen = gains[remaining].argmax(axis=1)
        best_two = np.partition(gains[remaining], k - 2, axis=1)[:, k - 2 :] if k > 1 else None
        regret = (
            best_two[:, 1] - best_two[:, 0] if best_two is not None else np.zeros(len(remaining))
        )
        order = np.lexsort((-regret, chosen))
        counts = np.bincount(chosen, minlength=k)
        rank = np.empty(len(remaining), np.int64)
        rank[order] = np.arange(len(remaining)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = rank < capacities[chosen]
        assigned[remaining[kept]] = chosen[kept]
        capacities -= np.bincount(chosen[kept], minlength=k)
        remaining = remaining[~kept]
        gains[:, capacities == 0] = -np.inf
    return assigned
