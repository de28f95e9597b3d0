"""The encoder prior over the trie, compared with a softmax over all items in float64.

Scores are hundreds of nats apart, so that most items are far below the best one: exp(x) underflows
in float32 for x below -104. Without a decoder and without embeddings of inner nodes, the product of
the probabilities along an item's path is exactly its probability under the softmax over all items.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.identifiers.trie import build_trie, decided
from genrec_jax.models.code_genrec.encoder_prior import LOG_ZERO, History, subtree_scores
from genrec_jax.models.code_genrec.trie_head import child_scores
from genrec_jax.models.device_trie import DeviceTrie, put_on_device

N, B, H, EOS = 60, 12, 5, 2


class Case(NamedTuple):
    """A trie, the item scores of the encoder, and histories with copy scores."""

    trie: DeviceTrie
    items: np.ndarray  # [N] the score of each item, the same for all users
    copy_scores: np.ndarray  # [B, H] the copy score of each position of the histories
    histories: np.ndarray  # [B, H] item rows, -1 for padding


def make_case(spread: float) -> Case:
    """Make a trie with leaves at three levels.

    User 0 has no history, user 1 a single repeated item, and the histories of users 2 and 3 contain
    all items of a subtree.
    """
    rng = np.random.default_rng(0)
    codes = [(5 + i // 20, 8 + i // 5 % 4, 12 + i % 5) for i in range(N)]
    codes[17], codes[40] = (7 + 20, 0, 0), (5, 7 + 20, 0)  # unique after the first, second token
    lengths = np.array([np.count_nonzero(code) for code in codes], np.int32)
    trie = decided(build_trie(np.array(codes, np.int32), lengths, EOS))
    assert len(set(trie.leaf_levels)) == 3
    histories = rng.integers(0, N, (B, H))
    histories[0], histories[1] = -1, 33
    histories[2] = [0, 1, 2, 3, 4]
    histories[3] = [41, 42, 43, 44, -1]
    histories[4, 3:], histories[5, 0] = -1, 17
    scores = rng.uniform(-spread, spread, N)
    scores[[0, 1, 2, 3, 4]] += spread  # the history of user 2 has the best items
    return Case(put_on_device(trie), scores, rng.uniform(-spread, spread, (B, H)), histories)


def log_probs(
    case: Case, scores: jax.Array, copy_scores: jax.Array | None, inner: jax.Array
) -> jax.Array:
    """Return the log-probabilities of the items, [B, N], with a decoder whose scores are 0."""
    trie = case.trie
    is_leaf = trie.items >= 0
    vectors = jnp.where(is_leaf, scores[trie.items], 0.0)[:, None]
    vectors = jnp.pad(vectors, ((0, 2 * max(trie.widths)), (0, 0)))
    query = jnp.ones((B, 1))  # an item's vector is its score
    history = History(jnp.asarray(case.histories), copy_scores)
    prior = subtree_scores(query, history, trie, vectors, inner)
    nodes = jnp.arange(len(trie.items))[None]
    states = jnp.zeros((B, len(trie.items), 1))
    width = max(trie.widths)
    steps = jax.nn.log_softmax(child_scores(states, nodes, trie, vectors, width, prior), axis=-1)
    parents = jnp.maximum(trie.parents, 0)
    step = steps[:, parents, jnp.arange(len(trie.items)) - trie.first_child[parents]]
    node, total = trie.leaves, jnp.zeros((B, N))
    for _ in range(trie.depth):
        total += jnp.where(node > 0, step[:, node], 0.0)
        node = jnp.where(node > 0, parents[node], 0)
    return total


def item_scores(case: Case, copying: bool) -> np.ndarray:
    """Return the prior's item scores, [B, N]; -inf for excluded items."""
    scores = np.tile(case.items, (B, 1))
    for user, position in np.ndindex(B, H):
        item = case.histories[user, position]
        if item >= 0 and copying:
            copy_score = case.copy_scores[user, position]
            scores[user, item] = np.logaddexp(scores[user, item], copy_score)
        elif item >= 0:
            scores[user, item] = -np.inf
    return scores


def normalised(scores: np.ndarray) -> np.ndarray:
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


@pytest.mark.parametrize("copying", [True, False])
@pytest.mark.parametrize("spread", [3.0, 400.0])
def test_the_path_is_a_softmax_over_all_items(spread: float, copying: bool) -> None:
    case = make_case(spread)
    copy_scores = jnp.asarray(case.copy_scores) if copying else None
    inner = jnp.zeros((len(case.trie.items), 1))
    found = jax.jit(lambda: log_probs(case, jnp.asarray(case.items), copy_scores, inner))()
    known = normalised(item_scores(case, copying))
    excluded = np.isneginf(known)
    assert excluded.any() == (not copying)
    np.testing.assert_allclose(
        found[~excluded], known[~excluded], atol=2e-3 if spread > 3 else 1e-5
    )
    np.testing.assert_allclose(np.exp(found).sum(1), 1.0, rtol=1e-4)
    assert (found[excluded] <= LOG_ZERO / 2).all()


@pytest.mark.parametrize("copying", [True, False])
def test_embeddings_of_inner_nodes_add_to_the_scores_of_their_subtrees(copying: bool) -> None:
    """They change the probabilities along the path, but excluded items stay excluded."""
    case = make_case(400.0)
    trie = case.trie
    is_inner = np.asarray(trie.items) < 0
    inner = np.where(is_inner, np.random.default_rng(1).uniform(-300, 300, len(is_inner)), 0.0)
    copy_scores = jnp.asarray(case.copy_scores) if copying else None
    found = np.asarray(
        jax.jit(lambda inner: log_probs(case, jnp.asarray(case.items), copy_scores, inner))(
            inner[:, None]
        )
    )
    of_items = item_scores(case, copying)
    parents, leaves = np.asarray(trie.parents), np.asarray(trie.leaves)
    subtrees = np.full((B, len(parents)), -np.inf)
    subtrees[:, leaves] = of_items
    for node in range(len(parents) - 1, 0, -1):  # children come after their parents
        np.logaddexp(subtrees[:, parents[node]], subtrees[:, node], out=subtrees[:, parents[node]])
    scores = subtrees + inner
    for user, item in np.ndindex(B, N):
        if np.isneginf(of_items[user, item]):
            assert found[user, item] < LOG_ZERO / 2
            continue
        node, total = leaves[item], 0.0
        while node:
            siblings = scores[user, parents == parents[node]]
            total += scores[user, node] - np.logaddexp.reduce(siblings)
            node = parents[node]
        np.testing.assert_allclose(found[user, item], total, atol=5e-3)


@pytest.mark.parametrize("copying", [True, False])
def test_gradients_are_those_of_the_softmax(copying: bool) -> None:
    """Compare the gradients of a weighted sum of the items' log-probabilities."""
    case = make_case(400.0)
    inner = jnp.zeros((len(case.trie.items), 1))
    whole = item_scores(case, copying)
    excluded = np.isneginf(whole)
    weights = np.where(excluded, 0.0, np.random.default_rng(2).normal(size=(B, N)))

    def total(scores: jax.Array, copy_scores: jax.Array) -> jax.Array:
        found = log_probs(case, scores, copy_scores if copying else None, inner)
        return jnp.sum(jnp.where(excluded, 0.0, weights * found))

    gradients = jax.jit(jax.grad(total, (0, 1)))
    of_items, of_copies = gradients(jnp.asarray(case.items), jnp.asarray(case.copy_scores))
    # d log p(i) / d s(k) = [i = k] - p(k)
    of_scores = weights - weights.sum(1, keepdims=True) * np.exp(normalised(whole))
    share = np.exp(np.where(excluded, -np.inf, case.items - np.where(excluded, 0.0, whole)))
    np.testing.assert_allclose(of_items, (of_scores * share).sum(0), atol=2e-3)
    if copying:
        users = np.arange(B)[:, None]
        share = np.exp(case.copy_scores - whole[users, case.histories])
        expected_copies = np.where(case.histories >= 0, of_scores[users, case.histories] * share, 0)
        np.testing.assert_allclose(of_copies, expected_copies, atol=2e-3)


def test_excluding_all_items_is_finite() -> None:
    """If a history contains all items, values and gradients are not NaN."""
    case = make_case(400.0)._replace(histories=np.tile(np.arange(N), (B, 1)))
    inner = jnp.zeros((len(case.trie.items), 1))

    def total(scores: jax.Array) -> jax.Array:
        return jnp.sum(log_probs(case, scores, None, inner))

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.asarray(case.items))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
