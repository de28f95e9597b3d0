"""A step from a trie node with one child is certain and excluded from the loss and its divisor."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genrec_jax.data.batches import Batch
from genrec_jax.decoding.exhaustive import make_blocks, score_items
from genrec_jax.identifiers.token_table import TokenTable
from genrec_jax.identifiers.trie import build_trie, decided
from genrec_jax.models.code_genrec.model import CodeGenRecShape
from genrec_jax.models.contract import Params, abstract_model, init_params, merge
from genrec_jax.models.device_trie import put_on_device as put_trie_on_device
from genrec_jax.models.tables import Tables, put_on_device
from genrec_jax.training.step import StepMetrics, make_train_step, start_state

BOS, PAD, EOS, MASK, W, A, X, ONE = 0, 1, 2, 4, 5, 6, 9, 11
# W, the first token of all, and the step from A to X are certain. Items 2 and 5 are determined
# before their last token.
IDENTIFIERS = [
    *((W, A, X, ONE), (W, A, X, ONE + 1)),
    *((W, A + 1, X, ONE), (W, A + 1, X + 1, ONE), (W, A + 1, X + 1, ONE + 1)),
    (W, A + 2, X, ONE),
]
DECISIONS = [2, 2, 2, 3, 3, 1]
USERS, HISTORIES = np.arange(5), np.array([[0, 3], [5, -1], [2, 4], [1, -1], [-1, -1]])


class StepResult(NamedTuple):
    """The metrics and gradient of one step, and the model's log-probabilities of items."""

    metrics: StepMetrics
    gradient: Params
    log_probs: Any  # params → log-probabilities [B, N] of exhaustive search
    params: Params  # before the step


def step_on(targets: list[int]) -> StepResult:
    n_items = len(IDENTIFIERS)
    users = [(ONE + 2, ONE + 3, PAD, PAD)] * len(USERS)
    tokens = np.array([*IDENTIFIERS, (MASK, PAD, PAD, PAD), *users], np.int32)
    table = TokenTable(tokens, (tokens != PAD).sum(1).astype(np.int32), n_items, BOS, PAD, EOS)
    trie = decided(build_trie(table.item_tokens, table.item_lengths, EOS))
    shape = CodeGenRecShape(
        vocab_size=ONE + 4,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        heads=2,
        ffn_dim=16,
        max_positions=16,
        path_length=trie.depth,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        init_std=0.5,
        encoder_prior="state",
        inner_nodes=int((trie.items < 0).sum()),
    )
    graph, _ = abstract_model(shape, len(USERS), n_items)
    params = init_params(shape, len(USERS), n_items, seed=0)
    tables = Tables(put_on_device(table), put_trie_on_device(trie))
    blocks = make_blocks(trie, EOS, 99)

    def log_probs(params: Params) -> jax.Array:
        model = merge(graph, params)
        batch = Batch(jnp.asarray(USERS), jnp.asarray(HISTORIES), jnp.full(len(USERS), -1))
        read = model.make_inputs(tables, batch, "next_item", 4).encoder_input
        writer = model.writer(tables, model.encode(tables, read))
        return score_items(writer.block_states, writer.edge_log_probs, blocks)

    # One step of gradient descent with rate 1, so that the difference is the gradient.
    step = make_train_step(graph, tables, optax.sgd(1.0), "next_item", 0)
    start = start_state(jax.tree.map(jnp.copy, params), optax.sgd(1.0))
    batch = Batch(USERS, HISTORIES, np.array(targets))
    state, metrics = step(start, batch, 4)
    gradient = jax.tree.map(lambda old, new: old - new, params, state.params)
    return StepResult(jax.device_get(metrics), gradient, log_probs, params)


def best_path(log_probs: np.ndarray) -> int:
    """Return the item that is reached by the most probable child of every node."""
    below = list(range(len(IDENTIFIERS)))
    for level in range(4):
        tokens = sorted({IDENTIFIERS[item][level] for item in below})
        groups = [[item for item in below if IDENTIFIERS[item][level] == token] for token in tokens]
        below = max(groups, key=lambda group: np.exp(log_probs[group]).sum())
    return below[0]


def test_the_loss_is_divided_by_the_number_of_decisions() -> None:
    first = step_on([0, 1, 2, 3, -1])
    log_probs = np.asarray(jax.jit(first.log_probs)(first.params))
    np.testing.assert_allclose(np.exp(log_probs).sum(1), 1.0, rtol=1e-5)
    targets = [best_path(log_probs[0]), 0, best_path(log_probs[2]), 5, -1]
    result = step_on(targets)
    users, items = np.arange(4), np.array(targets[:4])
    decisions = sum(DECISIONS[item] for item in items)
    assert result.metrics.tokens == decisions
    assert result.metrics.targets == 4
    np.testing.assert_allclose(result.metrics.loss_sum, -log_probs[users, items].sum(), rtol=1e-5)
    correct = [best_path(row) == item for row, item in zip(log_probs[:4], items, strict=True)]
    assert result.metrics.exact == sum(correct) >= 2

    def loss(params: Params) -> jax.Array:
        return -jnp.sum(result.log_probs(params)[users, items]) / decisions

    expected = jax.jit(jax.grad(loss))(result.params)
    np.testing.assert_allclose(result.metrics.gradient_norm, optax.tree.norm(expected), rtol=1e-4)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), result.gradient, expected)
