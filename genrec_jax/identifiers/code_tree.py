"""A tree of items by their vectors: the path to an item is its code.

Every node deals its items out to `alphabet` children of nearly the same size, so that the tree has
room for all: spherical k-means whose clusters hold at most ⌈n / alphabet⌉ items each. At the last
level every item of a node gets a symbol of its own, by chance.

Who goes where is an assignment problem: the sum of the items' cosines with the centres of their
clusters is to be as large as the room allows. It is solved by *prices*. A cluster that too many
items want becomes dearer until the demand is even (Sinkhorn's iteration, on n × alphabet numbers
and not on the n × n of the Hungarian method); every item then takes the cluster that leaves it
most. What the rounding still leaves too full keeps the items that would lose most elsewhere.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from threadpoolctl import threadpool_limits

ROUNDS = 20  # of k-means, at most
PRICE_STEPS = 12  # a round; prices go on from the round before, and the first takes longer
ENOUGH = 1e-4  # of the sum of cosines: what a round must gain for another to follow
TEMPERATURE = 0.02  # of the demand, in units of a cosine


@threadpool_limits.wrap(limits=1, user_api="blas")
def tree_codes(
    vectors: Float[np.ndarray, "n d"], alphabet: int, levels: int, seed: int
) -> Int[np.ndarray, "n levels"]:
    """A code for every row, all different; the same bits whatever the number of cores.

    Args:
        vectors: rows of length 1; n is at most alphabet ** levels.
        alphabet: symbols a level.
        levels: of the tree.
        seed: of the first centres, and of the symbols at the last level.
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
    """The cluster of every row: k of them, of at most ⌈n / k⌉ rows."""
    n = len(vectors)
    if n <= k:
        return rng.permutation(k)[:n]
    room = -(-n // k)
    centres = _spread_out(vectors, k, rng)
    prices = np.zeros(k, np.float32)
    best, best_score = np.zeros(n, np.int64), -np.inf
    for step in range(ROUNDS):
        cosines = vectors @ centres.T
        prices = _even_prices(cosines, prices, PRICE_STEPS if step else 5 * PRICE_STEPS)
        clusters = _within_room(cosines - prices, room)
        score = float(cosines[np.arange(n), clusters].sum())
        if score <= best_score * (1 + ENOUGH):
            break
        best, best_score = clusters, score
        members = sparse.csr_array((np.ones(n, np.float32), (clusters, np.arange(n))), (k, n))
        sums = members @ vectors
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return best


def _spread_out(
    vectors: Float[np.ndarray, "n d"], k: int, rng: np.random.Generator
) -> Float[np.ndarray, "k d"]:
    """k-means++: every next centre is drawn by its squared distance to the nearest so far."""
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


def _even_prices(
    cosines: Float[np.ndarray, "n k"], prices: Float[np.ndarray, " k"], steps: int
) -> Float[np.ndarray, " k"]:
    """Prices at which every cluster is wanted by about as many items."""
    n, k = cosines.shape
    for _ in range(steps):
        wish = (cosines - prices) / TEMPERATURE
        wish -= wish.max(axis=1, keepdims=True)
        np.exp(wish, out=wish)
        demand = (1 / wish.sum(axis=1)) @ wish
        prices = prices + TEMPERATURE * np.log(np.maximum(demand * (k / n), 1e-6))
    return prices.astype(np.float32)


def _within_room(gains: Float[np.ndarray, "n k"], room: int) -> Int[np.ndarray, " n"]:
    """Every row's largest gain, as far as no column is taken more than `room` times.

    Round by round the rows that are left name the column they want among those with room; a column
    that too many want keeps the rows that would lose most with their second choice, and is full.
    """
    n, k = gains.shape
    gains = gains.copy()
    taken = np.full(n, -1)
    left, rooms = np.arange(n), np.full(k, room)
    while len(left):
        wanted = gains[left].argmax(axis=1)
        two = np.partition(gains[left], k - 2, axis=1)[:, k - 2 :] if k > 1 else None
        regret = two[:, 1] - two[:, 0] if two is not None else np.zeros(len(left))
        order = np.lexsort((-regret, wanted))
        counts = np.bincount(wanted, minlength=k)
        place = np.empty(len(left), np.int64)
        place[order] = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = place < rooms[wanted]
        taken[left[kept]] = wanted[kept]
        rooms -= np.bincount(wanted[kept], minlength=k)
        left = left[~kept]
        gains[:, rooms == 0] = -np.inf
    return taken
