"""Searches over fake logits, against brute force and a plain-Python beam search."""

import itertools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_jax.decoding.beam_search import Decoder, SearchSpec, beam_search
from genrec_jax.decoding.exhaustive import best_items, make_blocks, score_items
from genrec_jax.decoding.seen import find_items, seen_nodes
from genrec_jax.identifiers.trie import Trie, build_trie
from genrec_jax.models.device_trie import put_on_device
from genrec_jax.models.genrec.writer import VocabularyWriter, child_log_probs

PAD, EOS, V, LONGEST = 1, 2, 9, 3
LETTERS = range(3, V)
NO_WRITER: Any = None  # states are logits, which here come from a table
edge_log_probs = partial(VocabularyWriter.edge_log_probs, NO_WRITER)
COMPILE_FAST = {"xla_backend_optimization_level": 0}  # every random trie is another program


def fake_logits(seed: int, users: int) -> tuple[np.ndarray, Decoder]:
    """A table of logits by user and by everything written so far, and the decoder that reads it.

    The state of a beam is a number that spells its tokens in base V: the cache that is reordered.
    """
    table = np.random.default_rng(seed).normal(size=(users, V ** (LONGEST + 1), V)) * 2
    on_device = jnp.asarray(table, jnp.float32)

    def start(beginning, beams, later):
        assert beginning[0] == EOS
        written = jnp.array([spell(beginning[1:n]) for n in range(1, len(beginning) + 1)])
        cache = jnp.full((users, beams), written[-1])
        return on_device[:, written], cache

    def advance(tokens, nodes, position, cache):
        written = cache * V + tokens
        return on_device[jnp.arange(users)[:, None], written], written

    def reorder(cache, parents):
        return jnp.take_along_axis(cache, parents, axis=1)

    return table.astype(np.float32), Decoder(start, advance, reorder, child_log_probs)


def fake_tree(table: np.ndarray):
    """The same table for exhaustive scoring: what each node has written follows from its row."""
    on_device = jnp.asarray(table)

    def logits_of(tokens, nodes, levels, visible):
        # The digits of a node are the tokens of the nodes it sees, the root's `</s>` left out.
        power = jnp.where(visible, levels[:, None] - levels[None, :], -1)
        digits = jnp.where(visible & (levels > 0)[None, :], tokens[None, :], 0)
        return on_device[:, jnp.sum(digits * V ** jnp.maximum(power, 0), axis=1)]

    return logits_of


def log_probs(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - math.log(np.exp(shifted).sum())


def spell(prefix: tuple[int, ...]) -> int:
    number = 0
    for token in prefix:
        number = number * V + token
    return number


def score(table: np.ndarray, name: tuple[int, ...]) -> float:
    """The log-probability of a name and of the `</s>` after it."""
    return sum(log_probs(table[spell(name[:i])])[token] for i, token in enumerate((*name, EOS)))


def search(decoder: Decoder, trie: Trie, beams: int, seen=None, **changes):
    spec = SearchSpec(beams=beams, eos=EOS, pad=PAD, **changes)
    run = jax.jit(beam_search, static_argnums=(0, 2), compiler_options=COMPILE_FAST)
    return run(decoder, put_on_device(trie), spec, seen)


def trie_of(names: list[tuple[int, ...]]) -> Trie:
    tokens = np.full((len(names), LONGEST), PAD, np.int32)
    for row, name in enumerate(names):
        tokens[row, : len(name)] = name
    return build_trie(tokens, np.array([len(name) for name in names], np.int32), EOS)


catalogues = st.lists(
    st.lists(st.sampled_from(LETTERS), min_size=1, max_size=LONGEST).map(tuple),
    min_size=1,
    max_size=25,
    unique=True,
)


penalties = st.sampled_from([0.0, 0.0, 0.7, 1.0])


def brute_force(
    table: np.ndarray, names: list[tuple[int, ...]], penalty: float, seen: set[int]
) -> list[tuple[int, float]]:
    """Every item that is not seen and its score, best first."""
    exact = {
        item: score(table, name) / (len(name) + 1) ** penalty
        for item, name in enumerate(names)
        if item not in seen
    }
    return sorted(exact.items(), key=lambda pair: -pair[1])


def test_seen_nodes_lead_to_seen_items_only() -> None:
    """By counting down the trie; an item may be seen twice, and by nobody."""
    names = [(3 + n // 6, 3 + n // 2 % 3, 3 + n % 2) for n in range(12)]
    trie = trie_of(names)
    nodes = range(trie.n_nodes)
    below = [{item for item in range(12) if node in path_of(trie, item)} for node in nodes]
    rng = np.random.default_rng(0)
    seen = rng.integers(-1, 12, (40, 16))
    found = np.asarray(jax.jit(seen_nodes)(put_on_device(trie), jnp.asarray(seen)))
    for row, dead in zip(seen, found, strict=True):
        items = set(row[row >= 0].tolist())
        expected = {node for node in nodes if node and below[node] <= items}
        assert set(dead[dead >= 0].tolist()) == expected


def path_of(trie: Trie, item: int) -> list[int]:
    """From the item's leaf to the root."""
    path = [int(trie.leaves[item])]
    while path[-1]:
        path.append(int(trie.parents[path[-1]]))
    return path


def random_seen(seed: int, users: int, n_items: int) -> tuple[list[set[int]], jax.Array]:
    """Some items of each user, repeats and padding among them; perhaps all of the catalogue."""
    rng = np.random.default_rng([seed, 1])
    rows = rng.integers(-1, n_items, (users, int(rng.integers(1, 2 * n_items + 1))))
    return [set(row.tolist()) - {-1} for row in rows], jnp.asarray(rows)


def assert_is(found_items, found_scores, expected: list[tuple[int, float]]) -> None:
    """The list holds what is expected, in that order, and nothing after it."""
    items, scores = [i for i, _ in expected], [s for _, s in expected]
    n = min(len(items), len(found_items))
    np.testing.assert_array_equal(found_items[:n], items[:n])
    np.testing.assert_allclose(found_scores[:n], scores[:n], atol=1e-4)
    assert np.all(np.asarray(found_items[n:]) == -1)


@settings(max_examples=7, deadline=None)
@given(catalogues, st.integers(0, 10_000), penalties, st.booleans())
def test_enough_beams_find_the_whole_catalogue_in_order(names, seed, penalty, exclude) -> None:
    users = 2
    table, decoder = fake_logits(seed, users)
    gone, rows = random_seen(seed, users, len(names))
    found = search(decoder, trie_of(names), 25, rows if exclude else None, length_penalty=penalty)
    for user in range(users):
        expected = brute_force(table[user], names, penalty, gone[user] if exclude else set())
        assert_is(found.items[user], found.scores[user], expected)


@settings(max_examples=7, deadline=None)
@given(catalogues, st.integers(0, 10_000), penalties, st.sampled_from([1, 2, 7, 99]))
def test_exhaustive_scores_are_brute_force_however_the_trie_is_cut(
    names, seed, penalty, size
) -> None:
    users = 2
    table, _ = fake_logits(seed, users)
    blocks = make_blocks(trie_of(names), EOS, size)
    run = jax.jit(score_items, static_argnums=(0, 1), compiler_options=COMPILE_FAST)
    scores = run(fake_tree(table), edge_log_probs, blocks)
    scores = SearchSpec(1, EOS, PAD, length_penalty=penalty).final_score(scores, blocks.leaf_levels)
    gone, rows = random_seen(seed, users, len(names))
    for seen, left_out in ((None, [set()] * users), (rows, gone)):
        items, best = best_items(scores, 25, seen)
        for user in range(users):
            expected = brute_force(table[user], names, penalty, left_out[user])
            assert_is(items[user], best[user], expected)


def plain_beam_search(table: np.ndarray, names: list[tuple[int, ...]], beams: int):
    """Keep the best K unfinished prefixes and the best K names among the best 2K extensions."""
    prefixes = {name[:i] for name in names for i in range(len(name) + 1)}
    live, done = {(): 0.0}, {}
    while live and (len(done) < beams or max(live.values()) > min(done.values())):
        extended = {}
        for prefix, value in live.items():
            after = log_probs(table[spell(prefix)])
            if prefix in names:
                extended[(*prefix, EOS)] = value + after[EOS]
            for token in LETTERS:
                if (*prefix, token) in prefixes:
                    extended[(*prefix, token)] = value + after[token]
        best = sorted(extended.items(), key=lambda pair: -pair[1])[: 2 * beams]
        done |= {path[:-1]: value for path, value in best if path[-1] == EOS}
        done = dict(sorted(done.items(), key=lambda pair: -pair[1])[:beams])
        live = dict([(path, value) for path, value in best if path[-1] != EOS][:beams])
    return done


@settings(max_examples=6, deadline=None)
@given(catalogues, st.integers(0, 10_000), st.sampled_from([1, 3]))
def test_few_beams_equal_a_plain_beam_search(names, seed, beams) -> None:
    table, decoder = fake_logits(seed, users=1)
    found = search(decoder, trie_of(names), beams)
    expected = plain_beam_search(table[0], names, beams)
    items = [names.index(name) for name in expected]
    np.testing.assert_array_equal(found.items[0, : len(items)], items)
    np.testing.assert_allclose(found.scores[0, : len(items)], list(expected.values()), atol=1e-4)


@settings(max_examples=6, deadline=None)
@given(catalogues, st.integers(0, 10_000), st.sampled_from([1, 3]))
def test_leaving_items_out_is_searching_the_rest_of_the_catalogue(names, seed, beams) -> None:
    _, decoder = fake_logits(seed, users=1)
    gone, rows = random_seen(seed, 1, len(names))
    found = search(decoder, trie_of(names), beams, rows)
    left = [item for item in range(len(names)) if item not in gone[0]]
    if not left:
        assert np.all(np.asarray(found.items) == -1)
        return
    rest = search(decoder, trie_of([names[item] for item in left]), beams)
    expected = [left[item] if item >= 0 else -1 for item in np.asarray(rest.items[0])]
    np.testing.assert_array_equal(found.items[0], expected)
    np.testing.assert_allclose(found.scores[0], rest.scores[0], rtol=1e-6)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_every_list_is_full_of_different_items_that_were_not_seen(seed) -> None:
    """As many items as beams are left, however unevenly the names branch."""
    rng = np.random.default_rng(seed)
    every = [name for n in (1, 2, 3) for name in itertools.product(LETTERS, repeat=n)]
    names = [every[i] for i in rng.choice(len(every), 40, replace=False)]
    _, decoder = fake_logits(seed, users=3)
    seen = np.stack([rng.choice(40, 32, replace=False) for _ in range(3)])
    found = search(decoder, trie_of(names), 8, jnp.asarray(seen))
    for row, gone in zip(np.asarray(found.items), seen, strict=True):
        assert len(set(row.tolist())) == 8
        assert row.min() >= 0
        assert not set(row.tolist()) & set(gone.tolist())
    assert np.all(np.diff(np.asarray(found.scores), axis=1) <= 0)


def test_free_search_finds_the_best_texts_and_names_the_items_among_them() -> None:
    table, decoder = fake_logits(seed=5, users=1)
    names = [(3, 4), (5,), (6, 7, 8)]
    found = search(decoder, trie_of(names), 6, search="free")
    # Every text of at most LONGEST tokens before `</s>`; special tokens are tokens like others.
    texts = [t for n in range(LONGEST + 1) for t in itertools.product(range(V), repeat=n)]
    texts = [t for t in texts if EOS not in t]
    best = max(texts, key=lambda text: score(table[0], text))
    written = {
        tuple(row.tolist()): float(value)
        for row, value in zip(np.asarray(found.tokens[0]), np.asarray(found.scores[0]), strict=True)
    }
    padded = (*best, EOS, *[PAD] * (LONGEST - len(best)))
    assert written[padded] == pytest.approx(score(table[0], best), abs=1e-4)
    for item, tokens in zip(np.asarray(found.items[0]), np.asarray(found.tokens[0]), strict=True):
        text = tuple(tokens.tolist())
        text = text[: text.index(EOS)] if EOS in text else text
        assert item == (names.index(text) if text in names else -1)
    assert np.all(np.diff((np.asarray(found.items[0]) < 0).astype(int)) >= 0)  # items first


def test_names_are_looked_up_exactly() -> None:
    names = [(3,), (3, 4), (3, 4, 5), (8, 8)]
    trie = put_on_device(trie_of(names))
    rows = jnp.array(
        [
            [[3, 2, 1, 1], [3, 4, 2, 1], [3, 4, 5, 2], [8, 8, 2, 1]],
            [[3, 4, 5, 6], [8, 2, 1, 1], [2, 1, 1, 1], [4, 2, 1, 1]],
        ]
    )
    np.testing.assert_array_equal(
        jax.jit(lambda rows: find_items(trie, rows))(rows), [[0, 1, 2, 3], [-1, -1, -1, -1]]
    )
