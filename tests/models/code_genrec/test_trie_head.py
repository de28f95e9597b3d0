"""The family over item codes: one encoder position per item, and a hierarchical (trie) softmax.

Training, exhaustive search and beam search must give an item the same probability, and the
probabilities must be one distribution over the catalogue.
"""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genrec_jax.data.batches import Batch
from genrec_jax.decoding.beam_search import Decoder, SearchSpec, beam_search
from genrec_jax.decoding.exhaustive import best_items, make_blocks, score_items
from genrec_jax.identifiers.token_table import TokenTable
from genrec_jax.identifiers.trie import Trie, build_trie, decided
from genrec_jax.models.code_genrec import trie_head
from genrec_jax.models.code_genrec.encoder_prior import LOG_ZERO
from genrec_jax.models.code_genrec.inputs import ItemInput
from genrec_jax.models.code_genrec.model import CodeGenRec, CodeGenRecShape
from genrec_jax.models.contract import Inputs, Objective, abstract_model, init_params, merge
from genrec_jax.models.device_trie import paths
from genrec_jax.models.device_trie import put_on_device as put_trie_on_device
from genrec_jax.models.tables import Tables, put_on_device

BOS, PAD, EOS, MASK, WORDS = 0, 1, 2, 4, 5
N, U, B, T = 23, 5, 4, 8
HISTORIES = np.array([[3, 9, 21, 0], [7, 7, -1, -1], [1, -1, -1, -1], [-1, -1, -1, -1]])
USERS = np.array([4, 0, -1, 2])
TARGETS = np.array([5, 22, 0, 11])


def token_table(codes: bool) -> TokenTable:
    """Identifiers of three code symbols, or numbers of unequal length after a shared word."""
    if codes:
        identifiers = [
            (WORDS + i // 9, WORDS + 3 + i // 3 % 3, WORDS + 6 + i % 3) for i in range(N)
        ]
    else:
        identifiers = [(WORDS, *(WORDS + 1 + int(digit) for digit in str(i))) for i in range(N)]
    rows = [*identifiers, (MASK,), *[(WORDS + 11, WORDS + 12)[: 1 + u % 2] for u in range(U)]]
    lengths = np.array([len(identifier) for identifier in rows], np.int32)
    tokens = np.full((len(rows), lengths.max()), PAD, np.int32)
    for row, identifier in enumerate(rows):
        tokens[row, : len(identifier)] = identifier
    return TokenTable(tokens, lengths, N, BOS, PAD, EOS)


def whole_trie(codes: bool) -> Trie:
    table = token_table(codes)
    return build_trie(table.item_tokens, table.item_lengths, EOS)


@cache
def small(
    codes: bool, prior: str, temperature: float = 0.0, reversed_positions: bool = False
) -> tuple[CodeGenRec, Tables, Trie]:
    trie = decided(whole_trie(codes))
    shape = CodeGenRecShape(
        vocab_size=WORDS + 13,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        heads=2,
        ffn_dim=32,
        max_positions=16,
        path_length=trie.depth,
        inner_nodes=int((trie.items < 0).sum()),
        init_std=0.3,
        encoder_prior=prior,
        temperature=temperature,
        reversed_positions=reversed_positions,
    )
    graph, _ = abstract_model(shape, U, N)
    model = merge(graph, init_params(shape, U, N, seed=1))
    return model, Tables(put_on_device(token_table(codes)), put_trie_on_device(trie)), trie


compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
MODELS = pytest.mark.parametrize(
    ("codes", "prior", "causal", "temperature"),
    [
        (True, "state", True, 0.0),
        (True, "none", False, 0.0),
        (False, "state", False, 0.0),
        (True, "copying", True, 0.2),
        (False, "copying", False, 0.0),
        (True, "new_items", True, 0.0),
        (False, "new_items", False, 0.2),
    ],
)


def objective_of(causal: bool) -> Objective:
    return "following_item" if causal else "next_item"


def inputs_of(model: CodeGenRec, tables: Tables, causal: bool, targets: Any = -1) -> Inputs:
    batch = Batch(jnp.asarray(USERS), jnp.asarray(HISTORIES), jnp.broadcast_to(targets, B))
    return model.make_inputs(tables, batch, objective_of(causal), T)


def read_of(model: CodeGenRec, tables: Tables, causal: bool) -> ItemInput:
    return inputs_of(model, tables, causal).encoder_input


def encoded_by(model: CodeGenRec, read: ItemInput) -> jax.Array:
    """Return the encoder's vectors at all positions."""
    positions = None
    if model.shape.reversed_positions:
        positions = jnp.maximum(read.last - jnp.arange(T), 0)
    return model.encoder(model.vectors(read), read.attention_mask, None, positions=positions)


def losses_of_all(model: CodeGenRec, tables: Tables, causal: bool) -> np.ndarray:
    """Return the training loss with each item as the target, [B, N]."""

    @compiled
    def losses(item: jax.Array) -> jax.Array:
        inputs = inputs_of(model, tables, causal, item)
        return model.loss(tables, inputs, None, False).loss.sum((1, 2))

    return np.stack([losses(jnp.array(item)) for item in range(N)], axis=1)


# ------------------------------------------------------------------ the trie


@pytest.mark.parametrize("codes", [True, False])
def test_paths_end_where_one_item_remains(codes: bool) -> None:
    table, trie = token_table(codes), decided(whole_trie(codes))
    rows = zip(table.item_tokens, table.item_lengths, strict=True)
    identifiers = [(*tuple(row[:n]), EOS) for row, n in rows]
    on_device = put_trie_on_device(trie)
    nodes = np.asarray(paths(on_device, jnp.arange(-1, N)[None]))[0]
    assert (nodes[0] == -1).all()
    for item, path in enumerate(nodes[1:]):
        path = path[path >= 0]
        generated = tuple(trie.tokens[path[1:]])
        own = identifiers[item]
        shortest = next(
            own[:n]
            for n in range(1, len(own) + 1)
            if sum(other[:n] == own[:n] for other in identifiers) == 1
        )
        assert generated == shortest
        assert path[-1] == trie.leaves[item]
        assert len(generated) == trie.leaf_levels[item]
        assert trie.items[path[-1]] == item
    assert sorted(trie.items[trie.items >= 0]) == list(range(N))
    inner = np.flatnonzero(trie.items < 0)
    for node in inner:
        children = np.arange(trie.n_children[node]) + trie.first_child[node]
        assert (trie.parents[children] == node).all()
    level = np.zeros(trie.n_nodes, int)
    for node in range(1, trie.n_nodes):
        level[node] = level[trie.parents[node]] + 1
    for n, width in enumerate(trie.widths):
        assert width == trie.n_children[level == n].max()


# ------------------------------------------------------------------ one distribution


@MODELS
def test_training_exhaustive_search_and_beams_agree(
    codes: bool,
    prior: str,
    causal: bool,
    temperature: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if prior == "none" or not codes:  # as for catalogues with large levels
        monkeypatch.setattr(trie_head, "SMALL_LEVEL", 0)
    model, tables, trie = small(codes, prior, temperature)
    losses = losses_of_all(model, tables, causal)
    np.testing.assert_allclose(np.exp(-losses).sum(1), 1.0, rtol=1e-5)

    memory = compiled(lambda: model.encode(tables, read_of(model, tables, causal)))()
    writer = model.writer(tables, memory)
    score = compiled(lambda b: score_items(writer.block_states, writer.edge_log_probs, b))
    for size in (3, 99) if causal else (5,):
        scores = score(make_blocks(trie, EOS, size))
        np.testing.assert_allclose(scores, -losses, atol=2e-5)

    decoder = Decoder(writer.start, writer.extend, writer.reorder, writer.child_log_probs)
    spec = SearchSpec(beams=N, eos=EOS, pad=PAD)
    search = compiled(lambda seen: beam_search(decoder, tables.trie, spec, seen))
    for excluded in (None, jnp.asarray(HISTORIES)) if causal else (None,):
        found = search(excluded)
        items, best = map(np.asarray, best_items(scores, N, excluded))
        zero = np.isfinite(best) & (best < LOG_ZERO / 2)  # items of the history, in any order
        assert zero.any() == (prior == "new_items" and excluded is None)
        np.testing.assert_array_equal(np.where(zero, -1, found.items), np.where(zero, -1, items))
        possible = (items >= 0) & ~zero
        np.testing.assert_allclose(np.asarray(found.scores)[possible], best[possible], atol=2e-5)


@pytest.mark.parametrize("codes", [True, False])
def test_a_node_vector_is_its_embedding_plus_the_mean_of_its_items(codes: bool) -> None:
    model, tables, trie = small(codes, "state")
    found = np.asarray(model.node_vectors(tables.trie))
    embeddings = iter(np.asarray(model.node_embedding[...]))
    items = np.asarray(model.item_embedding[...])
    for node in range(trie.n_nodes):
        if trie.items[node] >= 0:
            np.testing.assert_allclose(found[node], items[trie.items[node]], atol=1e-6)
            continue
        below = [item for item in range(N) if node in ancestors(trie, trie.leaves[item])]
        mean = items[below].mean(0) if node else 0.0  # the root is no child
        np.testing.assert_allclose(found[node], next(embeddings) + mean, atol=1e-6)
    assert next(embeddings, None) is None
    assert not found[trie.n_nodes :].any()


def test_the_mean_of_many_items_is_exact_in_bfloat16() -> None:
    """The mean of 600 bfloat16 vectors has a relative error of one rounding (8 bits)."""
    n = 600
    tokens = np.stack([np.full(n, WORDS), WORDS + 1 + np.arange(n)], axis=1).astype(np.int32)
    tokens[0, 0] = WORDS + n + 1  # so that the root has two children
    trie = decided(build_trie(tokens, np.full(n, 2, np.int32), EOS))
    on_device = put_trie_on_device(trie)
    items = jnp.asarray(1 + np.random.default_rng(0).random((n, 4)), jnp.bfloat16)
    inner = jnp.zeros((int((trie.items < 0).sum()), 4), jnp.bfloat16)
    found = np.asarray(trie_head.node_vectors(on_device, inner, items), np.float32)
    node = trie.parents[trie.leaves[1]]
    expected = np.asarray(items, np.float32)[1:].mean(0)
    np.testing.assert_allclose(found[node], expected, rtol=2**-8)


@pytest.mark.parametrize("reversed_positions", [False, True])
def test_an_empty_history_has_the_same_state_in_any_bucket(reversed_positions: bool) -> None:
    model, tables, _ = small(True, "state", 0.0, reversed_positions)
    found = []
    for length in (8, 16):
        batch = Batch(jnp.array([-1]), jnp.full((1, 3), -1), jnp.array([-1]))
        read = model.make_inputs(tables, batch, "following_item", length).encoder_input
        memory = compiled(lambda read: model.encode(tables, read))(read)
        found.append(np.asarray(memory.states))
    np.testing.assert_allclose(*found, atol=1e-5)


def ancestors(trie: Trie, node: int) -> list[int]:
    return [] if node == 0 else [int(trie.parents[node]), *ancestors(trie, trie.parents[node])]


def path(trie: Trie, item: int) -> list[int]:
    """Return the trie nodes from the item's leaf to the root."""
    leaf = int(trie.leaves[item])
    return [leaf, *ancestors(trie, leaf)]


def test_the_prior_state_is_the_encoders_vector_at_the_query() -> None:
    """Besides cross-attention, the decoder gets the history only through that state."""
    model, tables, _ = small(True, "state")
    lengths = (HISTORIES >= 0).sum(1)
    for causal, queries in ((True, lengths), (False, 1 + lengths)):
        read = read_of(model, tables, causal)
        states = compiled(lambda read: model.encode(tables, read))(read).states
        encoded = compiled(partial(encoded_by, model))(read)
        np.testing.assert_allclose(states[:, 0], encoded[np.arange(B), queries], atol=1e-6)


@pytest.mark.parametrize("prior", ["copying", "new_items"])
@pytest.mark.parametrize("node_embeddings", [True, False])
@pytest.mark.parametrize(
    ("codes", "causal", "temperature"), [(True, True, 0.0), (False, False, 0.0), (True, True, 0.2)]
)
def test_the_prior_with_a_decoder_whose_scores_are_zero(
    codes: bool, causal: bool, temperature: float, node_embeddings: bool, prior: str
) -> None:
    """Compare the prior with plain NumPy.

    With `copying` it is a softmax over all items with a copy score for each position of the
    history, whatever the trie; with `new_items` one over the items that are not in the history.
    Scores are inner products, or cosines over a temperature. Embeddings of inner nodes add to them.
    """
    model, tables, trie = small(codes, prior, temperature)
    graph, params = abstract_model(model.shape, U, N)[0], init_params(model.shape, U, N, seed=1)
    rng = np.random.default_rng(0)
    if prior == "copying":
        params["pointer_recency"] = jnp.asarray(rng.normal(3.0, 2.0, 16), jnp.float32)
    params["decoder"]["layers"]["0"]["final_norm"]["scale"] *= 0.0
    params["node_embedding"] *= node_embeddings
    model = merge(graph, params)
    read = read_of(model, tables, causal)
    memory = compiled(lambda: model.encode(tables, read))()
    encoded = np.asarray(compiled(partial(encoded_by, model))(read))
    found = -losses_of_all(model, tables, causal)
    items = np.asarray(params["item_embedding"])
    assert memory.states is not None
    for user, history in enumerate(HISTORIES):
        state = query = np.asarray(memory.states)[user, 0]
        if temperature:
            query = state / np.linalg.norm(state) / temperature
            items = items / np.linalg.norm(items, axis=1, keepdims=True)
        weights = np.exp(items @ query)
        n = (history >= 0).sum()
        for position in range(n):
            if prior == "new_items":
                weights[history[position]] = 1e-37
                continue
            pointer = np.asarray(params["pointer"])
            product = state @ pointer @ encoded[user, 1 + position] / np.sqrt(len(state))
            recency = n - 1 - position + (0 if causal else 1)  # the mask follows the last item
            weights[history[position]] += np.exp(product + params["pointer_recency"][recency])
        excluded = np.isin(np.arange(N), history) & (prior == "new_items")
        assert (found[user, excluded] < -60).all()
        if not node_embeddings:
            expected = np.log(weights / weights.sum())
            np.testing.assert_allclose(found[user, ~excluded], expected[~excluded], atol=2e-5)
        scores = np.zeros(trie.n_nodes)
        inner = iter(np.asarray(params["node_embedding"]) @ query)
        for node in range(trie.n_nodes):
            below = [item for item in range(N) if node in path(trie, item)]
            scores[node] = np.log(weights[below].sum())
            scores[node] += next(inner) if trie.items[node] < 0 else 0.0
        for item in np.flatnonzero(~excluded):
            expected = 0.0
            for node in path(trie, item)[:-1]:
                siblings = np.flatnonzero(trie.parents == trie.parents[node])
                expected += scores[node] - np.log(np.exp(scores[siblings]).sum())
            np.testing.assert_allclose(found[user, item], expected, atol=2e-5)


# ------------------------------------------------------------------ all positions


def test_all_positions_in_one_pass_have_the_losses_of_the_prefixes() -> None:
    """The loss at each position is that of the history truncated there."""
    model, tables, _ = small(True, "state")
    batch = Batch(*map(jnp.asarray, (USERS, HISTORIES, TARGETS)))
    inputs = model.make_inputs(tables, batch, "every_item", T)
    every = compiled(lambda: model.loss(tables, inputs, None, False).loss)()

    @compiled
    def loss_of(user: jax.Array, history: jax.Array, target: jax.Array) -> jax.Array:
        one = model.make_inputs(tables, Batch(user, history, target), "following_item", T)
        return model.loss(tables, one, None, False).loss.sum()

    loss = np.asarray(every.sum(-1))
    for user, history in enumerate(HISTORIES):
        whole = [*history[history >= 0], TARGETS[user]]
        expected = paths(tables.trie, jnp.array([whole]))[0]
        np.testing.assert_array_equal(inputs.targets[user, : len(whole)], expected)
        assert (loss[user, len(whole) :] == 0).all()
        assert not inputs.weights[user, len(whole) :].any()
        for n in range(len(whole)):
            cut = np.full((1, 4), -1)
            cut[0, :n] = whole[:n]
            one = (batch.users[user : user + 1], jnp.asarray(cut), jnp.array([whole[n]]))
            np.testing.assert_allclose(loss[user, n], loss_of(*one), atol=2e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_reversed_positions(causal: bool) -> None:
    """They equal positions from the start with the position table reversed for each history."""
    model, tables, _ = small(True, "state")
    shape = dataclasses.replace(model.shape, reversed_positions=True)
    graph, params = abstract_model(shape, U, N)[0], init_params(shape, U, N, seed=2)
    read = read_of(model, tables, causal)
    found = compiled(partial(encoded_by, merge(graph, params)))(read)
    from_start = abstract_model(model.shape, U, N)[0]
    index = jnp.arange(T)
    for user, n in enumerate((HISTORIES >= 0).sum(1) + (0 if causal else 1)):
        reversed_params = jax.tree.map(lambda x: x, params)
        embedding = reversed_params["encoder"]["embedding"]
        rows = embedding["positions"][np.maximum(n - index, 0)]
        embedding["positions"] = embedding["positions"].at[index].set(rows)
        expected = compiled(partial(encoded_by, merge(from_start, reversed_params)))(read)
        np.testing.assert_allclose(found[user, : n + 1], expected[user, : n + 1], atol=1e-6)


def test_an_input_vector_is_the_sum_of_token_and_id_embeddings() -> None:
    model, tables, _ = small(False, "state")
    found = np.asarray(model.vectors(read_of(model, tables, False)))
    tokens, users, items = (
        np.asarray(one[...])
        for one in (model.token_embedding, model.user_embedding, model.item_embedding)
    )
    table = token_table(False)
    expected = np.zeros_like(found)
    for row, (user, history) in enumerate(zip(USERS, HISTORIES, strict=True)):
        expected[row, 0] = tokens[BOS]
        if user >= 0:
            identifier = table.tokens[N + 1 + user, : table.lengths[N + 1 + user]]
            expected[row, 0] += tokens[identifier].sum(0) + users[user]
        history = history[history >= 0]
        for position, item in enumerate(history, start=1):
            expected[row, position] = tokens[table.tokens[item, : table.lengths[item]]].sum(0)
            expected[row, position] += items[item]
        expected[row, 1 + len(history)] = tokens[MASK]
    np.testing.assert_allclose(found, expected, atol=1e-6)
