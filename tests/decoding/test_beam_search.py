"""Beam search over fake logits, against brute force and a plain-Python beam search."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_jax.decoding.beam_search import beam_search, find_items, put_on_device
from genrec_jax.identifiers.trie import Trie, build_trie

PAD, EOS, V, LONGEST = 1, 2, 9, 3
LETTERS = range(3, V)


def fake_logits(seed: int, users: int):
    """A table of logits by user and by everything written so far, and the callable that reads it.

    The state of a beam is a number that spells its tokens in base V: the cache that is reordered.
    """
    table = np.random.default_rng(seed).normal(size=(users, V ** (LONGEST + 1), V)) * 2
    on_device = jnp.asarray(table, jnp.float32)

    def logits_of(tokens, position, cache):
        written = jnp.where(position == 0, 0, cache.reshape(tokens.shape) * V + tokens)
        rows = jnp.arange(tokens.shape[0])[:, None]
        return on_device[rows, written], written.reshape(-1)

    return table.astype(np.float32), logits_of


def log_probs(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - math.log(np.exp(shifted).sum())


def spell(prefix: tuple[int, ...]) -> int:
    number = 0
    for token in prefix:
        number = number * V + token
    return number


def score(table: np.ndarray, name: tuple[int, ...]) -> float:
    """The log-probability of a name and of the `</s>` behind it."""
    return sum(log_probs(table[spell(name[:i])])[token] for i, token in enumerate((*name, EOS)))


def search(table_of, trie: Trie, users: int, beams: int, mode: str = "constrained"):
    return beam_search(
        table_of,
        lambda cache, rows: cache[rows],
        jnp.zeros(users * beams, jnp.int32),
        put_on_device(trie),
        users=users,
        beams=beams,
        eos=EOS,
        pad=PAD,
        search=mode,
    )


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


@settings(max_examples=25, deadline=None)
@given(catalogues, st.integers(0, 10_000))
def test_enough_beams_find_the_whole_catalogue_in_order(names, seed) -> None:
    users = 2
    table, logits_of = fake_logits(seed, users)
    beams = 25
    found = search(logits_of, trie_of(names), users, beams)
    for user in range(users):
        exact = {item: score(table[user], name) for item, name in enumerate(names)}
        order = sorted(exact, key=exact.__getitem__, reverse=True)
        np.testing.assert_array_equal(found.items[user, : len(names)], order)
        np.testing.assert_allclose(
            found.scores[user, : len(names)], [exact[i] for i in order], atol=1e-4
        )
        assert np.all(np.asarray(found.items[user, len(names) :]) == -1)


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


@settings(max_examples=25, deadline=None)
@given(catalogues, st.integers(0, 10_000), st.sampled_from([1, 3]))
def test_few_beams_equal_a_plain_beam_search(names, seed, beams) -> None:
    table, logits_of = fake_logits(seed, users=1)
    found = search(logits_of, trie_of(names), 1, beams)
    expected = plain_beam_search(table[0], names, beams)
    items = [names.index(name) for name in expected]
    np.testing.assert_array_equal(found.items[0, : len(items)], items)
    np.testing.assert_allclose(found.scores[0, : len(items)], list(expected.values()), atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_every_list_is_full_of_different_items(seed) -> None:
    """As many items as beams exist, however unevenly the names branch."""
    rng = np.random.default_rng(seed)
    every = [name for n in (1, 2, 3) for name in itertools.product(LETTERS, repeat=n)]
    names = [every[i] for i in rng.choice(len(every), 40, replace=False)]
    _, logits_of = fake_logits(seed, users=3)
    found = search(logits_of, trie_of(names), 3, 8)
    for row in np.asarray(found.items):
        assert len(set(row.tolist())) == 8
        assert row.min() >= 0
    assert np.all(np.diff(np.asarray(found.scores), axis=1) <= 0)


def test_free_search_finds_the_best_texts_and_names_the_items_among_them() -> None:
    table, logits_of = fake_logits(seed=5, users=1)
    names = [(3, 4), (5,), (6, 7, 8)]
    found = search(logits_of, trie_of(names), 1, 6, mode="free")
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
