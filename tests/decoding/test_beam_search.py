"""Searches over random logits, compared with brute force and a plain-Python beam search."""

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
from genrec_jax.decoding.seen import excluded_nodes, find_items
from genrec_jax.identifiers.trie import Trie, build_trie
from genrec_jax.models.device_trie import put_on_device
from genrec_jax.models.genrec.writer import VocabularyWriter, child_log_probs

PAD, EOS, V, LONGEST = 1, 2, 9, 3
LETTERS = range(3, V)
NO_WRITER: Any = None  # not needed, because states are logits from a table
edge_log_probs = partial(VocabularyWriter.edge_log_probs, NO_WRITER)
COMPILE_FAST = {"xla_backend_optimization_level": 0}  # every random trie compiles another program


def fake_logits(seed: int, users: int) -> tuple[np.ndarray, Decoder]:
    """Return a table of logits by user and generated tokens, and a decoder that reads it.

    The cache contains a number per beam, whose digits in base V are the beam's tokens.
    """
    table = np.random.default_rng(seed).normal(size=(users, V ** (LONGEST + 1), V)) * 2
    on_device = jnp.asarray(table, jnp.float32)

    def start(prefix, beams, n_more):
        assert prefix[0] == EOS
        rows = jnp.array([table_row(prefix[1:n]) for n in range(1, len(prefix) + 1)])
        cache = jnp.full((users, beams), rows[-1])
        return on_device[:, rows], cache

    def advance(tokens, nodes, position, cache):
        rows = cache * V + tokens
        return on_device[jnp.arange(users)[:, None], rows], rows

    def reorder(cache, parents):
        return jnp.take_along_axis(cache, parents, axis=1)

    return table.astype(np.float32), Decoder(start, advance, reorder, child_log_probs)


def fake_tree(table: np.ndarray):
    """Return the function that computes the states of nodes from the table of `fake_logits`."""
    on_device = jnp.asarray(table)

    def logits_of(tokens, nodes, levels, visible):
        # The digits of a node are the tokens of its visible nodes, except the root's `</s>`.
        power = jnp.where(visible, levels[:, None] - levels[None, :], -1)
        digits = jnp.where(visible & (levels > 0)[None, :], tokens[None, :], 0)
        return on_device[:, jnp.sum(digits * V ** jnp.maximum(power, 0), axis=1)]

    return logits_of


def log_probs(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - math.log(np.exp(shifted).sum())


def table_row(prefix: tuple[int, ...]) -> int:
    """Return the row of the logits after some tokens: the number with these digits in base V."""
    number = 0
    for token in prefix:
        number = number * V + token
    return number


def score(table: np.ndarray, identifier: tuple[int, ...]) -> float:
    """Return the log-probability of an identifier with its `</s>`."""
    return sum(
        log_probs(table[table_row(identifier[:i])])[token]
        for i, token in enumerate((*identifier, EOS))
    )


def search(decoder: Decoder, trie: Trie, beams: int, seen=None, **changes):
    spec = SearchSpec(beams=beams, eos=EOS, pad=PAD, **changes)
    run = jax.jit(beam_search, static_argnums=(0, 2), compiler_options=COMPILE_FAST)
    return run(decoder, put_on_device(trie), spec, seen)


def trie_of(identifiers: list[tuple[int, ...]]) -> Trie:
    tokens = np.full((len(identifiers), LONGEST), PAD, np.int32)
    for row, identifier in enumerate(identifiers):
        tokens[row, : len(identifier)] = identifier
    return build_trie(
        tokens, np.array([len(identifier) for identifier in identifiers], np.int32), EOS
    )


catalogues = st.lists(
    st.lists(st.sampled_from(LETTERS), min_size=1, max_size=LONGEST).map(tuple),
    min_size=1,
    max_size=25,
    unique=True,
)


penalties = st.sampled_from([0.0, 0.0, 0.7, 1.0])


def brute_force(
    table: np.ndarray, identifiers: list[tuple[int, ...]], penalty: float, seen: set[int]
) -> list[tuple[int, float]]:
    """Return every unseen item and its score, best first."""
    exact = {
        item: score(table, identifier) / (len(identifier) + 1) ** penalty
        for item, identifier in enumerate(identifiers)
        if item not in seen
    }
    return sorted(exact.items(), key=lambda pair: -pair[1])


def test_excluded_nodes_lead_only_to_seen_items() -> None:
    """Items may be repeated in a history, or occur in none."""
    identifiers = [(3 + n // 6, 3 + n // 2 % 3, 3 + n % 2) for n in range(12)]
    trie = trie_of(identifiers)
    nodes = range(trie.n_nodes)
    below = [{item for item in range(12) if node in path_of(trie, item)} for node in nodes]
    rng = np.random.default_rng(0)
    seen = rng.integers(-1, 12, (40, 16))
    excluded = np.asarray(jax.jit(excluded_nodes)(put_on_device(trie), jnp.asarray(seen)))
    for row, found in zip(seen, excluded, strict=True):
        items = set(row[row >= 0].tolist())
        expected = {node for node in nodes if node and below[node] <= items}
        assert set(found[found >= 0].tolist()) == expected


def path_of(trie: Trie, item: int) -> list[int]:
    """Return the nodes from the item's leaf to the root."""
    path = [int(trie.leaves[item])]
    while path[-1]:
        path.append(int(trie.parents[path[-1]]))
    return path


def random_seen(seed: int, users: int, n_items: int) -> tuple[list[set[int]], jax.Array]:
    """Return random seen items of each user as sets and as rows with repeats and padding."""
    rng = np.random.default_rng([seed, 1])
    rows = rng.integers(-1, n_items, (users, int(rng.integers(1, 2 * n_items + 1))))
    return [set(row.tolist()) - {-1} for row in rows], jnp.asarray(rows)


def assert_is(found_items, found_scores, expected: list[tuple[int, float]]) -> None:
    """Check that a ranking contains exactly the expected items, in that order."""
    items, scores = [i for i, _ in expected], [s for _, s in expected]
    n = min(len(items), len(found_items))
    np.testing.assert_array_equal(found_items[:n], items[:n])
    np.testing.assert_allclose(found_scores[:n], scores[:n], atol=1e-4)
    assert np.all(np.asarray(found_items[n:]) == -1)


@settings(max_examples=7, deadline=None)
@given(catalogues, st.integers(0, 10_000), penalties, st.booleans())
def test_enough_beams_find_the_whole_catalogue_in_order(
    identifiers, seed, penalty, exclude
) -> None:
    users = 2
    table, decoder = fake_logits(seed, users)
    seen, rows = random_seen(seed, users, len(identifiers))
    found = search(
        decoder, trie_of(identifiers), 25, rows if exclude else None, length_penalty=penalty
    )
    for user in range(users):
        expected = brute_force(table[user], identifiers, penalty, seen[user] if exclude else set())
        assert_is(found.items[user], found.scores[user], expected)


@settings(max_examples=7, deadline=None)
@given(catalogues, st.integers(0, 10_000), penalties, st.sampled_from([1, 2, 7, 99]))
def test_exhaustive_scores_equal_brute_force_for_any_block_size(
    identifiers, seed, penalty, size
) -> None:
    users = 2
    table, _ = fake_logits(seed, users)
    blocks = make_blocks(trie_of(identifiers), EOS, size)
    run = jax.jit(score_items, static_argnums=(0, 1), compiler_options=COMPILE_FAST)
    scores = run(fake_tree(table), edge_log_probs, blocks)
    scores = SearchSpec(1, EOS, PAD, length_penalty=penalty).final_score(scores, blocks.leaf_levels)
    seen, rows = random_seen(seed, users, len(identifiers))
    for excluded_rows, excluded in ((None, [set()] * users), (rows, seen)):
        items, best = best_items(scores, 25, excluded_rows)
        for user in range(users):
            expected = brute_force(table[user], identifiers, penalty, excluded[user])
            assert_is(items[user], best[user], expected)


def plain_beam_search(table: np.ndarray, identifiers: list[tuple[int, ...]], beams: int):
    """Keep the best K live prefixes and the best K identifiers among the best 2K extensions."""
    prefixes = {identifier[:i] for identifier in identifiers for i in range(len(identifier) + 1)}
    live, finished = {(): 0.0}, {}
    while live and (len(finished) < beams or max(live.values()) > min(finished.values())):
        extended = {}
        for prefix, value in live.items():
            after = log_probs(table[table_row(prefix)])
            if prefix in identifiers:
                extended[(*prefix, EOS)] = value + after[EOS]
            for token in LETTERS:
                if (*prefix, token) in prefixes:
                    extended[(*prefix, token)] = value + after[token]
        best = sorted(extended.items(), key=lambda pair: -pair[1])[: 2 * beams]
        finished |= {path[:-1]: value for path, value in best if path[-1] == EOS}
        finished = dict(sorted(finished.items(), key=lambda pair: -pair[1])[:beams])
        live = dict([(path, value) for path, value in best if path[-1] != EOS][:beams])
    return finished


@settings(max_examples=6, deadline=None)
@given(catalogues, st.integers(0, 10_000), st.sampled_from([1, 3]))
def test_few_beams_equal_a_plain_beam_search(identifiers, seed, beams) -> None:
    table, decoder = fake_logits(seed, users=1)
    found = search(decoder, trie_of(identifiers), beams)
    expected = plain_beam_search(table[0], identifiers, beams)
    items = [identifiers.index(identifier) for identifier in expected]
    np.testing.assert_array_equal(found.items[0, : len(items)], items)
    np.testing.assert_allclose(found.scores[0, : len(items)], list(expected.values()), atol=1e-4)


@settings(max_examples=6, deadline=None)
@given(catalogues, st.integers(0, 10_000), st.sampled_from([1, 3]))
def test_excluding_items_equals_searching_the_remaining_catalogue(identifiers, seed, beams) -> None:
    _, decoder = fake_logits(seed, users=1)
    seen, rows = random_seen(seed, 1, len(identifiers))
    found = search(decoder, trie_of(identifiers), beams, rows)
    remaining = [item for item in range(len(identifiers)) if item not in seen[0]]
    if not remaining:
        assert np.all(np.asarray(found.items) == -1)
        return
    smaller = search(decoder, trie_of([identifiers[item] for item in remaining]), beams)
    expected = [remaining[item] if item >= 0 else -1 for item in np.asarray(smaller.items[0])]
    np.testing.assert_array_equal(found.items[0], expected)
    np.testing.assert_allclose(found.scores[0], smaller.scores[0], rtol=1e-6)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_every_ranking_has_k_different_unseen_items(seed) -> None:
    """As many items as beams are unseen, and the identifiers branch unevenly."""
    rng = np.random.default_rng(seed)
    possible = [tokens for n in (1, 2, 3) for tokens in itertools.product(LETTERS, repeat=n)]
    identifiers = [possible[i] for i in rng.choice(len(possible), 40, replace=False)]
    _, decoder = fake_logits(seed, users=3)
    seen = np.stack([rng.choice(40, 32, replace=False) for _ in range(3)])
    found = search(decoder, trie_of(identifiers), 8, jnp.asarray(seen))
    for row, excluded in zip(np.asarray(found.items), seen, strict=True):
        assert len(set(row.tolist())) == 8
        assert row.min() >= 0
        assert not set(row.tolist()) & set(excluded.tolist())
    assert np.all(np.diff(np.asarray(found.scores), axis=1) <= 0)


def test_free_search_finds_the_best_texts_and_the_items_among_them() -> None:
    table, decoder = fake_logits(seed=5, users=1)
    identifiers = [(3, 4), (5,), (6, 7, 8)]
    found = search(decoder, trie_of(identifiers), 6, search="free")
    # Every text of at most LONGEST tokens before `</s>`; it may contain special tokens.
    texts = [t for n in range(LONGEST + 1) for t in itertools.product(range(V), repeat=n)]
    texts = [t for t in texts if EOS not in t]
    best = max(texts, key=lambda text: score(table[0], text))
    generated = {
        tuple(row.tolist()): float(value)
        for row, value in zip(np.asarray(found.tokens[0]), np.asarray(found.scores[0]), strict=True)
    }
    padded = (*best, EOS, *[PAD] * (LONGEST - len(best)))
    assert generated[padded] == pytest.approx(score(table[0], best), abs=1e-4)
    for item, tokens in zip(np.asarray(found.items[0]), np.asarray(found.tokens[0]), strict=True):
        text = tuple(tokens.tolist())
        text = text[: text.index(EOS)] if EOS in text else text
        assert item == (identifiers.index(text) if text in identifiers else -1)
    assert np.all(np.diff((np.asarray(found.items[0]) < 0).astype(int)) >= 0)  # items first


def test_identifiers_are_looked_up_exactly() -> None:
    identifiers = [(3,), (3, 4), (3, 4, 5), (8, 8)]
    trie = put_on_device(trie_of(identifiers))
    rows = jnp.array(
        [
            [[3, 2, 1, 1], [3, 4, 2, 1], [3, 4, 5, 2], [8, 8, 2, 1]],
            [[3, 4, 5, 6], [8, 2, 1, 1], [2, 1, 1, 1], [4, 2, 1, 1]],
        ]
    )
    np.testing.assert_array_equal(
        jax.jit(lambda rows: find_items(trie, rows))(rows), [[0, 1, 2, 3], [-1, -1, -1, -1]]
    )
