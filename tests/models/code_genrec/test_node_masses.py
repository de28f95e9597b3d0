"""The encoder's prior over the trie against a softmax over all items in float64.

Scores are hundreds of nats apart, so that most items are far below the best: float32 holds exp of
no number below -104. Without a decoder, and without vectors of the inner nodes' own, the product of
the steps down to an item is its share of all items, exactly.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.identifiers.trie import build_trie, decided
from genrec_jax.models.code_genrec.node_masses import NOTHING, History, node_masses
from genrec_jax.models.code_genrec.trie_head import child_scores
from genrec_jax.models.device_trie import DeviceTrie, put_on_device

N, B, H, EOS = 60, 12, 5, 2


class Case(NamedTuple):
    """Items that q says these scores of, and what it says of saying again those of the history."""

    trie: DeviceTrie
    items: np.ndarray  # [N] the score of each item; they are the same for all users
    pointers: np.ndarray  # [B, H]
    histories: np.ndarray  # [B, H]


def make_case(spread: float) -> Case:
    """Leaves at three levels. User 0 has no history, user 1 the same item throughout, users 2 and 3
    have seen all that is below a node."""
    rng = np.random.default_rng(0)
    names = [(5 + i // 20, 8 + i // 5 % 4, 12 + i % 5) for i in range(N)]
    names[17], names[40] = (7 + 20, 0, 0), (5, 7 + 20, 0)  # found at the first, the second token
    lengths = np.array([np.count_nonzero(name) for name in names], np.int32)
    trie = decided(build_trie(np.array(names, np.int32), lengths, EOS))
    assert len(set(trie.leaf_levels)) == 3
    histories = rng.integers(0, N, (B, H))
    histories[0], histories[1] = -1, 33
    histories[2] = [0, 1, 2, 3, 4]
    histories[3] = [41, 42, 43, 44, -1]
    histories[4, 3:], histories[5, 0] = -1, 17
    scores = rng.uniform(-spread, spread, N)
    scores[[0, 1, 2, 3, 4]] += spread  # what user 2 has seen would be the best
    return Case(put_on_device(trie), scores, rng.uniform(-spread, spread, (B, H)), histories)


def log_probs(
    case: Case, scores: jax.Array, pointers: jax.Array | None, own: jax.Array
) -> jax.Array:
    """[B, N], by the steps of a decoder that says nothing."""
    trie = case.trie
    is_leaf = trie.items >= 0
    vectors = jnp.where(is_leaf, scores[trie.items], 0.0)[:, None]
    vectors = jnp.pad(vectors, ((0, 2 * max(trie.widths)), (0, 0)))
    asked = jnp.ones((B, 1))  # an item's vector is its score
    history = History(jnp.asarray(case.histories), pointers)
    masses = node_masses(asked, history, trie, vectors, own)
    nodes = jnp.arange(len(trie.items))[None]
    silent = jnp.zeros((B, len(trie.items), 1))
    width = max(trie.widths)
    steps = jax.nn.log_softmax(child_scores(silent, nodes, trie, vectors, width, masses), axis=-1)
    parents = jnp.maximum(trie.parents, 0)
    step = steps[:, parents, jnp.arange(len(trie.items)) - trie.first_child[parents]]
    node, total = trie.leaves, jnp.zeros((B, N))
    for _ in range(trie.depth):
        total += jnp.where(node > 0, step[:, node], 0.0)
        node = jnp.where(node > 0, parents[node], 0)
    return total


def log_masses(case: Case, with_pointers: bool) -> np.ndarray:
    """[B, N], -inf for items that are no answers."""
    scores = np.tile(case.items, (B, 1))
    for user, place in np.ndindex(B, H):
        item = case.histories[user, place]
        if item >= 0 and with_pointers:
            scores[user, item] = np.logaddexp(scores[user, item], case.pointers[user, place])
        elif item >= 0:
            scores[user, item] = -np.inf
    return scores


def normalised(scores: np.ndarray) -> np.ndarray:
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


@pytest.mark.parametrize("with_pointers", [True, False])
@pytest.mark.parametrize("spread", [3.0, 400.0])
def test_the_steps_are_a_softmax_over_all_items(spread: float, with_pointers: bool) -> None:
    case = make_case(spread)
    pointers = jnp.asarray(case.pointers) if with_pointers else None
    own = jnp.zeros((len(case.trie.items), 1))
    found = jax.jit(lambda: log_probs(case, jnp.asarray(case.items), pointers, own))()
    known = normalised(log_masses(case, with_pointers))
    never = np.isneginf(known)
    assert never.any() == (not with_pointers)
    np.testing.assert_allclose(found[~never], known[~never], atol=2e-3 if spread > 3 else 1e-5)
    np.testing.assert_allclose(np.exp(found).sum(1), 1.0, rtol=1e-4)
    assert (found[never] <= NOTHING / 2).all()


@pytest.mark.parametrize("with_pointers", [True, False])
def test_a_node_of_its_own_adds_to_what_is_below(with_pointers: bool) -> None:
    """The inner nodes' own scores count on the way down, and cannot bring back what was seen."""
    case = make_case(400.0)
    trie = case.trie
    is_inner = np.asarray(trie.items) < 0
    own = np.where(is_inner, np.random.default_rng(1).uniform(-300, 300, len(is_inner)), 0.0)
    pointers = jnp.asarray(case.pointers) if with_pointers else None
    found = np.asarray(
        jax.jit(lambda own: log_probs(case, jnp.asarray(case.items), pointers, own))(own[:, None])
    )
    of_items = log_masses(case, with_pointers)
    parents, leaves = np.asarray(trie.parents), np.asarray(trie.leaves)
    masses = np.full((B, len(parents)), -np.inf)
    masses[:, leaves] = of_items
    for node in range(len(parents) - 1, 0, -1):  # children come after their parents
        np.logaddexp(masses[:, parents[node]], masses[:, node], out=masses[:, parents[node]])
    scores = masses + own
    for user, item in np.ndindex(B, N):
        if np.isneginf(of_items[user, item]):
            assert found[user, item] < NOTHING / 2
            continue
        node, total = leaves[item], 0.0
        while node:
            siblings = scores[user, parents == parents[node]]
            total += scores[user, node] - np.logaddexp.reduce(siblings)
            node = parents[node]
        np.testing.assert_allclose(found[user, item], total, atol=5e-3)


@pytest.mark.parametrize("with_pointers", [True, False])
def test_gradients_are_those_of_the_softmax(with_pointers: bool) -> None:
    """Of the sum of the items' log-probabilities, each weighted by a number."""
    case = make_case(400.0)
    own = jnp.zeros((len(case.trie.items), 1))
    whole = log_masses(case, with_pointers)
    never = np.isneginf(whole)
    weights = np.where(never, 0.0, np.random.default_rng(2).normal(size=(B, N)))

    def total(scores: jax.Array, pointers: jax.Array) -> jax.Array:
        found = log_probs(case, scores, pointers if with_pointers else None, own)
        return jnp.sum(jnp.where(never, 0.0, weights * found))

    gradients = jax.jit(jax.grad(total, (0, 1)))
    of_items, of_pointers = gradients(jnp.asarray(case.items), jnp.asarray(case.pointers))
    # d log p(i) / d log m(k) = [i = k] - p(k)
    of_masses = weights - weights.sum(1, keepdims=True) * np.exp(normalised(whole))
    share = np.exp(np.where(never, -np.inf, case.items - np.where(never, 0.0, whole)))
    np.testing.assert_allclose(of_items, (of_masses * share).sum(0), atol=2e-3)
    if with_pointers:
        users = np.arange(B)[:, None]
        share = np.exp(case.pointers - whole[users, case.histories])
        expected_pointers = np.where(
            case.histories >= 0, of_masses[users, case.histories] * share, 0
        )
        np.testing.assert_allclose(of_pointers, expected_pointers, atol=2e-3)


def test_a_user_who_has_seen_all_items() -> None:
    """Nothing is left to say; it is no NaN all the same, and neither is the gradient."""
    case = make_case(400.0)._replace(histories=np.tile(np.arange(N), (B, 1)))
    own = jnp.zeros((len(case.trie.items), 1))

    def total(scores: jax.Array) -> jax.Array:
        return jnp.sum(log_probs(case, scores, None, own))

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.asarray(case.items))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
