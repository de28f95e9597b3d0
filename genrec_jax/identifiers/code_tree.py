"""A balanced tree of items by their vectors; the path to an item is its code.

Every node splits its items over `alphabet` children of nearly equal size, so that the tree has room
for all items: spherical k-means with clusters of at most ⌈n / alphabet⌉ items. At the last level,
every item of a node receives a different symbol at random.

The assignment maximises the sum of the items' cosines with the centres of their clusters, subject
to the capacity. It is solved by *prices*: the price of a cluster with too much demand rises until
the demand is even (Sinkhorn's iteration, on n × alphabet numbers instead of the n × n of the
Hungarian method). Every item then takes the cluster with the largest cosine minus price. A cluster
that is still above its capacity keeps the items that would lose most elsewhere.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from threadpoolctl import threadpool_limits

ROUNDS = 20  # the most rounds of k-means
PRICE_STEPS = 12  # steps in a round, which continues with the prices of the previous one
ENOUGH = 1e-4  # the smallest relative gain of a round after which another follows
TEMPERATURE = 0.02  # of the softmax over clusters, in units of a cosine


@threadpool_limits.wrap(limits=1, user_api="blas")
def tree_codes(
    vectors: Float[np.ndarray, "n d"], alphabet: int, levels: int, seed: int
) -> Int[np.ndarray, "n levels"]:
    """Return a different code for every row, bit for bit the same on any number of cores.

    Args:
        vectors: item vectors of length 1; n is at most alphabet ** levels.
        alphabet: the symbols of a level.
        levels: the levels of the tree.
        seed: the seed of the first centres and of the symbols at the last level.
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
        if score <= best_score * (1 + ENOUGH):
            break
        best, best_score = clusters, score
        members = sparse.csr_array((np.ones(n, np.float32), (clusters, np.arange(n))), (k, n))
        sums = members @ vectors
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return best


def _initial_centres(
    vectors: Float[np.ndarray, "n d"], k: int, rng: np.random.Generator
) -> Float[np.ndarray, "k d"]:
    """Choose centres by k-means++: each is drawn by its squared distance to the nearest so far."""
    chosen = [int(rng.integers(len(vectors)))]
    distance = np.full(len(vectors), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, np.maximum(1 - vectors @ vectors[chosen[-1]], 0))
        cumulative = np.cumsum(distance)
        if cumulative[-1] <= 0:  # fewer different vectors than centres
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
    """Assign every row to its column of largest gain, at most `capacity` rows to a column.

    In each round, every unassigned row chooses its best column that has capacity left. A column
    chosen by too many rows keeps those that would lose most with their second choice, and is full.
    """
    n, k = gains.shape
    gains = gains.copy()
    assigned = np.full(n, -1)
    remaining, capacities = np.arange(n), np.full(k, capacity)
    while len(remaining):
        chosen = gains[remaining].argmax(axis=1)
        two = np.partition(gains[remaining], k - 2, axis=1)[:, k - 2 :] if k > 1 else None
        regret = two[:, 1] - two[:, 0] if two is not None else np.zeros(len(remaining))
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
