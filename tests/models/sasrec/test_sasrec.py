"""SASRec compared with plain NumPy: its softmax over all items and its causal attention."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.data.batches import Batch
from genrec_jax.models.contract import abstract_model, init_params, merge
from genrec_jax.models.sasrec.model import SASRec, SASRecShape
from genrec_jax.models.tables import Tables

N, T = 23, 8
NO_TABLES = Tables()
HISTORIES = np.array([[3, 9, 21, 0], [7, 7, -1, -1], [1, -1, -1, -1], [-1, -1, -1, -1]])
BATCH = Batch(*map(jnp.asarray, ([4, 0, -1, 2], HISTORIES, [5, 22, 0, 11])))


@cache
def small(reversed_positions: bool = True) -> tuple[SASRec, Any]:
    shape = SASRecShape(
        d_model=16,
        layers=2,
        heads=2,
        ffn_dim=32,
        max_items=16,
        init_std=0.4,
        reversed_positions=reversed_positions,
    )
    graph, _ = abstract_model(shape, 5, N)
    params = init_params(shape, 5, N, seed=1)
    return merge(graph, params), params


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def test_the_parameters_are_item_embeddings_and_an_encoder() -> None:
    _, params = small()
    assert params.keys() == {"item_embedding", "encoder"}


@pytest.mark.parametrize("objective", ["following_item", "every_item"])
def test_the_loss_is_the_cross_entropy_over_all_items(objective: Any) -> None:
    model, params = small(False)
    inputs = model.make_inputs(NO_TABLES, BATCH, objective, T)
    states = np.asarray(model.encode(NO_TABLES, inputs.encoder_input))
    expected = -log_softmax(states @ np.asarray(params["item_embedding"]).T)
    terms = jax.jit(lambda: model.loss(NO_TABLES, inputs, None, False))()
    targets = np.asarray(inputs.targets)
    assert terms.loss.shape == (*targets.shape, 1)
    for index in np.ndindex(targets.shape):
        item = targets[index]
        loss = expected[index][item] if item >= 0 else 0.0
        np.testing.assert_allclose(terms.loss[index][0], loss, atol=2e-5)
        is_best = item < 0 or expected[index].argmin() == item
        assert bool(terms.correct[index][0]) == is_best
    np.testing.assert_array_equal(inputs.weights[..., 0], targets >= 0)


def test_the_target_of_every_position_is_the_next_item() -> None:
    inputs = small()[0].make_inputs(NO_TABLES, BATCH, "every_item", T)
    for row, (history, target) in enumerate(zip(HISTORIES, np.asarray(BATCH.targets), strict=True)):
        items = history[history >= 0].tolist()
        following = [*items[1:], target] if items else []
        assert np.asarray(inputs.targets)[row].tolist() == following + [-1] * (T - len(following))


def test_the_state_at_a_position_is_that_of_the_prefix() -> None:
    """The state at each position of a sequence is that of the history that ends there."""
    model, _ = small(False)
    every = model.encode(
        NO_TABLES, model.make_inputs(NO_TABLES, BATCH, "every_item", T).encoder_input
    )
    for row, history in enumerate(HISTORIES):
        for n in range(1, (history >= 0).sum() + 1):
            prefix = np.where(np.arange(4) < n, history, -1)[None]
            batch = Batch(BATCH.users[row : row + 1], jnp.asarray(prefix), jnp.array([-1]))
            read = model.make_inputs(NO_TABLES, batch, "following_item", T).encoder_input
            alone = model.encode(NO_TABLES, read)
            np.testing.assert_allclose(every[row, n - 1], alone[0, 0], atol=1e-5)


@pytest.mark.parametrize("reversed_positions", [False, True])
def test_scores_are_log_probabilities_for_any_padding(reversed_positions: bool) -> None:
    """That of an empty history as well, whose query position attends to itself."""
    model, params = small(reversed_positions)
    found = []
    for length in (T, 2 * T):
        read = model.make_inputs(NO_TABLES, BATCH, "following_item", length).encoder_input
        memory = model.encode(NO_TABLES, read)
        scores = np.asarray(model.item_scores(NO_TABLES, memory))
        table = np.asarray(params["item_embedding"])
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(
            scores, log_softmax(np.asarray(memory)[:, 0] @ table.T), atol=2e-5
        )
        found.append(scores)
    np.testing.assert_allclose(found[0], found[1], atol=2e-5)
    np.testing.assert_allclose(np.exp(found[0]).sum(1), 1.0, rtol=1e-5)


def test_attention_is_causal() -> None:
    """Changing the item at a position changes the states from there on and none before."""
    model, _ = small(False)
    encoded = jax.jit(
        lambda histories: model.encode(
            NO_TABLES,
            model.make_inputs(
                NO_TABLES, BATCH._replace(histories=histories), "every_item", T
            ).encoder_input,
        )
    )
    known = np.asarray(encoded(BATCH.histories))
    positions = np.arange(HISTORIES.shape[1])
    for position in positions:
        changed = np.where(positions == position, (HISTORIES + 1) % N, HISTORIES)
        changed = np.where(HISTORIES >= 0, changed, -1)
        found = np.asarray(encoded(jnp.asarray(changed)))
        np.testing.assert_array_equal(found[:, :position], known[:, :position])
        for row in np.flatnonzero(HISTORIES[:, position] >= 0):
            gaps = np.abs(found[row, position:] - known[row, position:]).max(axis=-1)
            assert (gaps > 1e-3).all()


def test_users_and_identifiers_are_not_read() -> None:
    """The encoder's input has item rows only, and there are no tables of identifiers."""
    model, _ = small()
    for objective in ("following_item", "every_item"):
        known = model.make_inputs(NO_TABLES, BATCH, objective, T)
        without_users = BATCH._replace(users=jnp.full_like(BATCH.users, -1))
        found = model.make_inputs(NO_TABLES, without_users, objective, T)
        jax.tree.map(np.testing.assert_array_equal, found, known)


def test_reversed_positions() -> None:
    """They equal positions from the start with the position table reversed for each history."""
    reversed_, params = small(True)
    forward, _ = small(False)
    graph, _ = abstract_model(forward.shape, 5, N)
    read = reversed_.make_inputs(NO_TABLES, BATCH, "following_item", T).encoder_input
    found = reversed_.encode(NO_TABLES, read)
    for row, n in enumerate((HISTORIES >= 0).sum(1)):
        reversed_params = jax.tree.map(jnp.asarray, params)
        positions = np.array(params["encoder"]["embedding"]["positions"])
        positions[:n] = positions[:n][::-1]
        reversed_params["encoder"]["embedding"]["positions"] = jnp.asarray(positions)
        expected = merge(graph, reversed_params).encode(NO_TABLES, read)
        np.testing.assert_allclose(found[row], expected[row], atol=1e-5)
