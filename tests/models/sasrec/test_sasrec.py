"""SASRec against plain NumPy: its softmax over all items, and what each position may see."""

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
NOTHING = Tables()
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


def test_it_holds_items_and_an_encoder() -> None:
    _, params = small()
    assert params.keys() == {"item_embedding", "encoder"}


@pytest.mark.parametrize("objective", ["following_item", "every_item"])
def test_the_loss_is_the_cross_entropy_over_all_items(objective: Any) -> None:
    model, params = small(False)
    inputs = model.make_inputs(NOTHING, BATCH, objective, T)
    states = np.asarray(model.encode(NOTHING, inputs.read))
    expected = -log_softmax(states @ np.asarray(params["item_embedding"]).T)
    terms = jax.jit(lambda: model.loss(NOTHING, inputs, None, False))()
    targets = np.asarray(inputs.answer)
    assert terms.loss.shape == (*targets.shape, 1)
    for place in np.ndindex(targets.shape):
        item = targets[place]
        loss = expected[place][item] if item >= 0 else 0.0
        np.testing.assert_allclose(terms.loss[place][0], loss, atol=2e-5)
        best = item < 0 or expected[place].argmin() == item
        assert bool(terms.correct[place][0]) == best
    np.testing.assert_array_equal(inputs.weights[..., 0], targets >= 0)


def test_every_position_is_asked_for_the_item_after_it() -> None:
    inputs = small()[0].make_inputs(NOTHING, BATCH, "every_item", T)
    for row, (history, target) in enumerate(zip(HISTORIES, np.asarray(BATCH.targets), strict=True)):
        items = history[history >= 0].tolist()
        following = [*items[1:], target] if items else []
        assert np.asarray(inputs.answer)[row].tolist() == following + [-1] * (T - len(following))


def test_one_pass_over_a_sequence_is_one_pass_a_prefix() -> None:
    """No position sees later items: it predicts as the history that ends there does."""
    model, _ = small(False)
    every = model.encode(NOTHING, model.make_inputs(NOTHING, BATCH, "every_item", T).read)
    for row, history in enumerate(HISTORIES):
        for n in range(1, (history >= 0).sum() + 1):
            prefix = np.where(np.arange(4) < n, history, -1)[None]
            batch = Batch(BATCH.users[row : row + 1], jnp.asarray(prefix), jnp.array([-1]))
            read = model.make_inputs(NOTHING, batch, "following_item", T).read
            alone = model.encode(NOTHING, read)
            np.testing.assert_allclose(every[row, n - 1], alone[0, 0], atol=1e-5)


@pytest.mark.parametrize("reversed_positions", [False, True])
def test_scores_are_log_probabilities_whatever_the_padding(reversed_positions: bool) -> None:
    """An empty history too: its one position looks at itself."""
    model, params = small(reversed_positions)
    found = []
    for length in (T, 2 * T):
        read = model.make_inputs(NOTHING, BATCH, "following_item", length).read
        memory = model.encode(NOTHING, read)
        scores = np.asarray(model.item_scores(NOTHING, memory))
        table = np.asarray(params["item_embedding"])
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(
            scores, log_softmax(np.asarray(memory)[:, 0] @ table.T), atol=2e-5
        )
        found.append(scores)
    np.testing.assert_allclose(found[0], found[1], atol=2e-5)
    np.testing.assert_allclose(np.exp(found[0]).sum(1), 1.0, rtol=1e-5)


def test_no_position_sees_later_items() -> None:
    """Another item at a place changes what comes from there on, and nothing before."""
    model, _ = small(False)
    encoded = jax.jit(
        lambda histories: model.encode(
            NOTHING,
            model.make_inputs(NOTHING, BATCH._replace(histories=histories), "every_item", T).read,
        )
    )
    known = np.asarray(encoded(BATCH.histories))
    for place in range(HISTORIES.shape[1]):
        changed = np.where(np.arange(HISTORIES.shape[1]) == place, (HISTORIES + 1) % N, HISTORIES)
        changed = np.where(HISTORIES >= 0, changed, -1)
        found = np.asarray(encoded(jnp.asarray(changed)))
        np.testing.assert_array_equal(found[:, :place], known[:, :place])
        for row in np.flatnonzero(HISTORIES[:, place] >= 0):
            gaps = np.abs(found[row, place:] - known[row, place:]).max(axis=-1)
            assert (gaps > 1e-3).all()


def test_users_and_names_are_not_read() -> None:
    """What the encoder gets is the items alone; there are no tables of names to look at."""
    model, _ = small()
    for objective in ("following_item", "every_item"):
        known = model.make_inputs(NOTHING, BATCH, objective, T)
        nobody = BATCH._replace(users=jnp.full_like(BATCH.users, -1))
        found = model.make_inputs(NOTHING, nobody, objective, T)
        jax.tree.map(np.testing.assert_array_equal, found, known)


def test_positions_counted_from_the_end() -> None:
    """As counted from the start, in a table turned round at the length of each history."""
    reversed_, params = small(True)
    forward, _ = small(False)
    graph, _ = abstract_model(forward.shape, 5, N)
    read = reversed_.make_inputs(NOTHING, BATCH, "following_item", T).read
    found = reversed_.encode(NOTHING, read)
    for row, n in enumerate((HISTORIES >= 0).sum(1)):
        turned = jax.tree.map(jnp.asarray, params)
        positions = np.array(params["encoder"]["embedding"]["positions"])
        positions[:n] = positions[:n][::-1]
        turned["encoder"]["embedding"]["positions"] = jnp.asarray(positions)
        expected = merge(graph, turned).encode(NOTHING, read)
        np.testing.assert_allclose(found[row], expected[row], atol=1e-5)
