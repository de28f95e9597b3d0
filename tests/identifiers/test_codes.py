"""Codes: one an item, alike where items are, from the training part alone, kept with a run."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import save, small_bart
from scipy.optimize import linear_sum_assignment
from test_item_vectors import blocks, planted

from genrec_jax.core.errors import InputError
from genrec_jax.data.sequences import UserSequences, next_item_examples
from genrec_jax.evaluation.audit import with_targets_exchanged
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.code_tree import _assign, _balance_prices, balanced_clusters
from genrec_jax.identifiers.codes import (
    alphabet_size,
    assign_codes,
    code_symbols,
    prefix_similarity,
)
from genrec_jax.identifiers.indexing import Indexing, coded_indexing, make_indexing
from genrec_jax.identifiers.input_lengths import plan_batches, token_lengths
from genrec_jax.identifiers.item_vectors import collaborative_vectors
from genrec_jax.identifiers.tokenizer import Vocabulary, train_tokenizer, with_symbols
from genrec_jax.models.contract import abstract_model, init_params, merge
from genrec_jax.models.genrec.config import Config, ModelConfig
from genrec_jax.models.genrec.convert import load_params, read_shape
from genrec_jax.models.genrec.export import Origin, write_folder
from genrec_jax.models.genrec.family import FAMILY
from genrec_jax.models.genrec.inputs import encoder_input
from genrec_jax.models.masking import append_mask
from genrec_jax.models.tables import put_on_device


def unit(n: int, d: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def coded(sequences: UserSequences, seed: int = 0) -> Indexing:
    vectors = collaborative_vectors(sequences, 16, 5, seed)
    return coded_indexing("collaborative", sequences, vectors, seed)


def vocabulary_of(indexing: Indexing, size: int = 60) -> Vocabulary:
    words = train_tokenizer(indexing.user_identifiers(), size)
    return with_symbols(words, code_symbols(len(indexing.item_numbers)))


@pytest.fixture(scope="module")
def coded_catalogue(sequences: UserSequences) -> Catalogue:
    indexing = coded(sequences)
    return Catalogue.build(sequences, indexing, vocabulary_of(indexing))


# ------------------------------------------------------------------------------------ the tree


@pytest.mark.parametrize("n", [1, 2, 8, 9, 26, 27, 28, 500, 512, 513])
def test_every_item_has_a_code_of_its_own_from_the_smallest_alphabet(n: int) -> None:
    vectors = unit(n, 6)
    vectors[::5] = 0
    for given in (vectors, None):
        codes = assign_codes(n, given, seed=0)
        assert codes.shape == (n, 3)
        assert len(np.unique(codes, axis=0)) == n
        alphabet = alphabet_size(n)
        assert (alphabet - 1) ** 3 < n <= alphabet**3
        assert codes.min() >= 0
        assert codes.max() < alphabet


def test_beauty_takes_23_symbols() -> None:
    assert alphabet_size(12_101) == 23
    assert len(code_symbols(12_101)) == 69


@pytest.mark.parametrize(("n", "k"), [(24, 23), (100, 7), (527, 23), (40, 40), (5, 9), (50, 1)])
def test_clusters_hold_no_more_than_their_share(n: int, k: int) -> None:
    clusters = balanced_clusters(unit(n, 4), k, np.random.default_rng(0))
    counts = np.bincount(clusters, minlength=k)
    assert len(counts) == k
    assert counts.max() <= -(-n // k)
    same = balanced_clusters(np.ones((n, 1), np.float32), k, np.random.default_rng(0))
    assert np.bincount(same).max() <= -(-n // k)


def test_the_assignment_is_nearly_the_best_there_is() -> None:
    """Against the Hungarian method, on cosines where the clusters are wanted unevenly."""
    for seed in range(5):
        vectors, centres = unit(300, 8, seed) + 0.3, unit(12, 8, seed + 50)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = vectors @ centres.T
        assert np.bincount(cosines.argmax(axis=1), minlength=12).max() > 50
        rows, slots = linear_sum_assignment(np.repeat(cosines, 25, axis=1), maximize=True)
        best = cosines[rows, slots // 25].mean()
        prices = _balance_prices(cosines, np.zeros(12, np.float32), steps=60)
        clusters = _assign(cosines - prices, 25)
        assert (np.bincount(clusters, minlength=12) == 25).all()
        found = cosines[np.arange(300), clusters].mean()
        first_come = _first_come(cosines, 25)
        assert found > best - 0.01
        assert best - found < 0.25 * (best - first_come)


def _first_come(cosines: np.ndarray, room: int) -> float:
    left, total = np.full(cosines.shape[1], room), 0.0
    for row in cosines:
        choice = int(np.where(left > 0, row, -np.inf).argmax())
        left[choice] -= 1
        total += float(row[choice])
    return total / len(cosines)


def test_planted_blocks_are_found() -> None:
    """Items of a block share the first symbol, items of a block in it the second."""
    codes = coded(planted()).codes
    assert codes is not None
    for size, symbols in ((16, 1), (4, 2)):
        of_block = blocks(size)
        for block in range(64 // size):
            assert len(np.unique(codes[of_block == block, :symbols], axis=0)) == 1
        assert len(np.unique(codes[:, :symbols], axis=0)) == 64 // size


def test_likeness_is_the_mean_over_pairs() -> None:
    vectors, codes = unit(30, 5), assign_codes(30, None, seed=0)
    vectors[4] = 0
    for symbols in (0, 1, 2):
        pairs = [
            float(vectors[i] @ vectors[j])
            for i in range(30)
            for j in range(i)
            if 4 not in (i, j) and (codes[i, :symbols] == codes[j, :symbols]).all()
        ]
        assert prefix_similarity(vectors, codes, symbols) == pytest.approx(np.mean(pairs), abs=1e-5)


# ------------------------------------------------------------------------------------ indexing


def test_the_seed_decides(sequences: UserSequences) -> None:
    one, same, other = (coded(sequences, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.codes, same.codes)
    assert (one.codes != other.codes).any()
    chance = [coded_indexing("random_codes", sequences, None, seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(chance[0].codes, chance[1].codes)
    assert (chance[0].codes != chance[2].codes).any()
    # Users are written as they are with numbers dealt out by the same seed.
    random = make_indexing("random", sequences, 3)
    for indexing in (one, chance[0]):
        np.testing.assert_array_equal(indexing.user_numbers, random.user_numbers)


def test_held_out_items_change_no_code() -> None:
    sequences = planted()
    ours, theirs = (coded(one) for one in (sequences, with_targets_exchanged(sequences, seed=2)))
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_array_equal(ours.user_numbers, theirs.user_numbers)
    assert ours.user_identifiers() == theirs.user_identifiers()


def test_items_of_which_nothing_is_known_are_dealt_out_by_chance() -> None:
    """Their codes depend on the seed alone, and are free ones."""
    vectors = unit(60, 6)
    vectors[40:] = 0
    codes = assign_codes(60, vectors, seed=0)
    moved = vectors.copy()
    moved[:40] = vectors[:40][::-1]
    others = assign_codes(60, moved, seed=0)
    assert len(np.unique(others, axis=0)) == 60
    seeds = [assign_codes(60, vectors, seed)[40:, 0] for seed in range(40)]
    counts = np.bincount(np.concatenate(seeds), minlength=4)
    assert counts.min() > 100  # of 800: every first symbol has room
    assert codes[40:].tolist() != assign_codes(60, vectors, 1)[40:].tolist()


# ------------------------------------------------------------------------------------ tokens


def test_a_name_is_three_tokens_wherever_it_stands(coded_catalogue: Catalogue) -> None:
    table, vocabulary = coded_catalogue.table, coded_catalogue.vocabulary
    codes, names = coded_catalogue.indexing.codes, coded_catalogue.indexing.item_identifiers()
    assert codes is not None
    alphabet = alphabet_size(table.n_items)
    np.testing.assert_array_equal(table.item_lengths, 3)
    expected = vocabulary.n_words + codes + alphabet * np.arange(3)
    np.testing.assert_array_equal(table.item_tokens, expected)
    assert vocabulary.size == vocabulary.n_words + 3 * alphabet
    assert coded_catalogue.trie.prefix == ()
    user = coded_catalogue.indexing.user_identifiers()[0]
    (sentence,) = vocabulary.encode([" ".join([user, *names])])
    (user_tokens,) = vocabulary.encode([user])
    assert sentence == [*user_tokens, *table.item_tokens.ravel().tolist()]
    assert max(user_tokens) < vocabulary.n_words
    assert vocabulary.decode(table.item_tokens[5]) == names[5]


def test_a_catalogue_with_codes_is_read_back(coded_catalogue: Catalogue, tmp_path: Path) -> None:
    coded_catalogue.save(tmp_path)
    again = Catalogue.load(tmp_path)
    for name in ("codes", "item_numbers", "user_numbers"):
        ours, theirs = (getattr(c.indexing, name) for c in (coded_catalogue, again))
        np.testing.assert_array_equal(ours, theirs)
    assert again.indexing.kind == "collaborative"
    assert again.indexing.item_identifiers() == coded_catalogue.indexing.item_identifiers()
    assert again.vocabulary.n_words == coded_catalogue.vocabulary.n_words
    np.testing.assert_array_equal(again.table.tokens, coded_catalogue.table.tokens)
    np.testing.assert_array_equal(again.trie.items, coded_catalogue.trie.items)


def test_barts_own_tokenizer_keeps_its_tokens(sequences: UserSequences, bart_dir: Path) -> None:
    from genrec_jax.identifiers.tokenizer import load_bart_tokenizer

    words = load_bart_tokenizer(bart_dir)
    assert words.n_words == words.size == 50_265
    both = with_symbols(words, code_symbols(sequences.n_items))
    assert (both.n_words, both.size, both.mask) == (50_265, 50_277, 50_264)
    texts = ["user_22 item_1234", "Crème brûlée <a b_5>"]
    assert both.encode(texts) == words.encode(texts)
    assert both.encode(["user_7 <a_0><b_3> <c_1>"])[0][-3:] == [50_265, 50_272, 50_274]
    assert words.size == 50_265  # with_symbols made a copy


# ------------------------------------------------------------------------------------ the model


def no_vectors(columns: int, window: int, seed: int) -> np.ndarray:
    raise AssertionError("the paper's model starts no items from vectors")


@pytest.mark.parametrize("rows", [0, 3])
def test_a_checkpoints_tokens_keep_their_logits(
    rows: int, sequences: UserSequences, tmp_path: Path
) -> None:
    """Of a checkpoint with `rows` rows more than its tokenizer has tokens."""
    indexing = coded(sequences)
    vocabulary = vocabulary_of(indexing)
    catalogue = Catalogue.build(sequences, indexing, vocabulary)
    bart = small_bart(vocabulary.n_words + rows, encoder_layers=1, decoder_layers=1)
    folder = save(bart, tmp_path / "bart")
    config = Config(model=ModelConfig(max_tokens=64))
    shape = FAMILY.make_shape(config, catalogue, folder, 0)
    assert shape.vocab_size == max(vocabulary.size, vocabulary.n_words + rows)
    params = FAMILY.start_params(config, shape, catalogue, folder, no_vectors)
    graph, like = abstract_model(shape, sequences.n_users, sequences.n_items)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, like)

    theirs = dataclasses.replace(shape, vocab_size=read_shape(folder).vocab_size)
    other_graph, _ = abstract_model(theirs, sequences.n_users, sequences.n_items)
    start = init_params(theirs, sequences.n_users, sequences.n_items, seed=0)
    start |= {name: params[name] for name in ("user_embedding", "item_embedding")}
    known = load_params(folder, theirs, start)

    users = plan_batches(
        next_item_examples(sequences, 2).take(np.arange(6)),
        token_lengths(catalogue.table, 64),
        *(6, 1, "test"),
    )
    ((bucket, order),) = users.in_order()
    batch, table = users.pad(bucket, order), put_on_device(catalogue.table)
    # Names of users alone, which both know: the items are written with tokens that only one has.
    nobody = jnp.full_like(jnp.asarray(batch.histories), -1)
    masked = append_mask(nobody, table.mask_row)
    sentence = encoder_input(table, jnp.asarray(batch.users), masked, bucket.n_tokens)
    decoder = jnp.full((6, 2), vocabulary.eos)
    logits = jax.jit(
        lambda graph, params: merge(graph, params)(sentence, decoder), static_argnums=0
    )
    ours, expected = logits(graph, params), logits(other_graph, known)
    kept = slice(vocabulary.n_words)
    np.testing.assert_allclose(ours[..., kept], expected[..., kept], atol=1e-5)

    for name in ("token_embedding", "final_logits_bias"):
        ours, expected = (np.asarray(one[name])[kept] for one in (params, known))
        np.testing.assert_array_equal(ours, expected)
    added = np.asarray(params["token_embedding"])[vocabulary.n_words : vocabulary.size]
    assert abs(added.std() / shape.init_std - 1) < 0.2
    bias = np.asarray(params["final_logits_bias"])[vocabulary.n_words : vocabulary.size]
    assert not bias.any()


def test_an_export_is_refused(coded_catalogue: Catalogue, tmp_path: Path) -> None:
    config = Config(model=ModelConfig(d_model=16, attention_heads=2))
    shape = FAMILY.make_shape(config, coded_catalogue, None, 0)
    with pytest.raises(
        InputError, match=r"config\.indexing: found 'collaborative' in .* have codes"
    ):
        write_folder(tmp_path / "out", coded_catalogue, shape, {}, Origin("run", 1, "synthetic"))
    assert not (tmp_path / "out").exists()
