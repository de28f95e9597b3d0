"""Codes are unique, similar for similar items, free of test items, and stored with a run."""

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


def unit_vectors(n: int, d: int, seed: int = 0) -> np.ndarray:
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
def test_codes_are_unique_and_use_the_smallest_alphabet(n: int) -> None:
    vectors = unit_vectors(n, 6)
    vectors[::5] = 0
    for maybe_vectors in (vectors, None):
        codes = assign_codes(n, maybe_vectors, seed=0)
        assert codes.shape == (n, 3)
        assert len(np.unique(codes, axis=0)) == n
        alphabet = alphabet_size(n)
        assert (alphabet - 1) ** 3 < n <= alphabet**3
        assert codes.min() >= 0
        assert codes.max() < alphabet


def test_beauty_needs_23_symbols_per_level() -> None:
    assert alphabet_size(12_101) == 23
    assert len(code_symbols(12_101)) == 69


@pytest.mark.parametrize(("n", "k"), [(24, 23), (100, 7), (527, 23), (40, 40), (5, 9), (50, 1)])
def test_clusters_do_not_exceed_their_capacity(n: int, k: int) -> None:
    clusters = balanced_clusters(unit_vectors(n, 4), k, np.random.default_rng(0))
    counts = np.bincount(clusters, minlength=k)
    assert len(counts) == k
    assert counts.max() <= -(-n // k)
    of_equal_vectors = balanced_clusters(np.ones((n, 1), np.float32), k, np.random.default_rng(0))
    assert np.bincount(of_equal_vectors).max() <= -(-n // k)


def test_the_assignment_is_nearly_optimal() -> None:
    """Compare with the Hungarian method, on cosines that favour some clusters."""
    for seed in range(5):
        vectors, centres = unit_vectors(300, 8, seed) + 0.3, unit_vectors(12, 8, seed + 50)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = vectors @ centres.T
        assert np.bincount(cosines.argmax(axis=1), minlength=12).max() > 50
        rows, columns = linear_sum_assignment(np.repeat(cosines, 25, axis=1), maximize=True)
        best = cosines[rows, columns // 25].mean()
        prices = _balance_prices(cosines, np.zeros(12, np.float32), steps=60)
        clusters = _assign(cosines - prices, 25)
        assert (np.bincount(clusters, minlength=12) == 25).all()
        achieved = cosines[np.arange(300), clusters].mean()
        greedy = _greedy_mean(cosines, 25)
        assert achieved > best - 0.01
        assert best - achieved < 0.25 * (best - greedy)


def _greedy_mean(cosines: np.ndarray, capacity: int) -> float:
    """Return the mean cosine if the rows choose in order among clusters with capacity left."""
    remaining, total = np.full(cosines.shape[1], capacity), 0.0
    for row in cosines:
        choice = int(np.where(remaining > 0, row, -np.inf).argmax())
        remaining[choice] -= 1
        total += float(row[choice])
    return total / len(cosines)


def test_planted_blocks_determine_the_prefixes() -> None:
    """Items of a large block share the first symbol, items of a small block also the second."""
    codes = coded(planted()).codes
    assert codes is not None
    for size, symbols in ((16, 1), (4, 2)):
        of_block = blocks(size)
        for block in range(64 // size):
            assert len(np.unique(codes[of_block == block, :symbols], axis=0)) == 1
        assert len(np.unique(codes[:, :symbols], axis=0)) == 64 // size


def test_prefix_similarity_is_the_mean_over_pairs() -> None:
    vectors, codes = unit_vectors(30, 5), assign_codes(30, None, seed=0)
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


def test_codes_depend_on_the_seed(sequences: UserSequences) -> None:
    one, same, other = (coded(sequences, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.codes, same.codes)
    assert (one.codes != other.codes).any()
    random_codes = [coded_indexing("random_codes", sequences, None, seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(random_codes[0].codes, random_codes[1].codes)
    assert (random_codes[0].codes != random_codes[2].codes).any()
    # Users have the same numbers as with random item numbers of the same seed.
    random = make_indexing("random", sequences, 3)
    for indexing in (one, random_codes[0]):
        np.testing.assert_array_equal(indexing.user_numbers, random.user_numbers)


def test_codes_do_not_depend_on_validation_and_test_items() -> None:
    sequences = planted()
    original = coded(sequences)
    changed = coded(with_targets_exchanged(sequences, seed=2))
    np.testing.assert_array_equal(original.codes, changed.codes)
    np.testing.assert_array_equal(original.user_numbers, changed.user_numbers)
    assert original.user_identifiers() == changed.user_identifiers()


def test_items_without_a_vector_get_random_codes() -> None:
    """Their codes are unused ones and depend on the seed."""
    vectors = unit_vectors(60, 6)
    vectors[40:] = 0
    codes = assign_codes(60, vectors, seed=0)
    permuted = vectors.copy()
    permuted[:40] = vectors[:40][::-1]
    assert len(np.unique(assign_codes(60, permuted, seed=0), axis=0)) == 60
    first_symbols = [assign_codes(60, vectors, seed)[40:, 0] for seed in range(40)]
    counts = np.bincount(np.concatenate(first_symbols), minlength=4)
    assert counts.min() > 100  # of 800: every first symbol has unused codes
    assert codes[40:].tolist() != assign_codes(60, vectors, 1)[40:].tolist()


# ------------------------------------------------------------------------------------ tokens


def test_a_code_is_three_tokens_wherever_it_occurs(coded_catalogue: Catalogue) -> None:
    table, vocabulary = coded_catalogue.table, coded_catalogue.vocabulary
    codes = coded_catalogue.indexing.codes
    identifiers = coded_catalogue.indexing.item_identifiers()
    assert codes is not None
    alphabet = alphabet_size(table.n_items)
    np.testing.assert_array_equal(table.item_lengths, 3)
    expected = vocabulary.n_words + codes + alphabet * np.arange(3)
    np.testing.assert_array_equal(table.item_tokens, expected)
    assert vocabulary.size == vocabulary.n_words + 3 * alphabet
    assert coded_catalogue.trie.prefix == ()
    user = coded_catalogue.indexing.user_identifiers()[0]
    (text_tokens,) = vocabulary.encode([" ".join([user, *identifiers])])
    (user_tokens,) = vocabulary.encode([user])
    assert text_tokens == [*user_tokens, *table.item_tokens.ravel().tolist()]
    assert max(user_tokens) < vocabulary.n_words
    assert vocabulary.decode(table.item_tokens[5]) == identifiers[5]


def test_a_loaded_catalogue_with_codes_equals_the_saved_one(
    coded_catalogue: Catalogue, tmp_path: Path
) -> None:
    coded_catalogue.save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    for field in ("codes", "item_numbers", "user_numbers"):
        saved, restored = (getattr(c.indexing, field) for c in (coded_catalogue, loaded))
        np.testing.assert_array_equal(saved, restored)
    assert loaded.indexing.kind == "collaborative"
    assert loaded.indexing.item_identifiers() == coded_catalogue.indexing.item_identifiers()
    assert loaded.vocabulary.n_words == coded_catalogue.vocabulary.n_words
    np.testing.assert_array_equal(loaded.table.tokens, coded_catalogue.table.tokens)
    np.testing.assert_array_equal(loaded.trie.items, coded_catalogue.trie.items)


def test_added_symbols_keep_the_tokens_of_barts_tokenizer(
    sequences: UserSequences, bart_dir: Path
) -> None:
    from genrec_jax.identifiers.tokenizer import load_bart_tokenizer

    words = load_bart_tokenizer(bart_dir)
    assert words.n_words == words.size == 50_265
    extended = with_symbols(words, code_symbols(sequences.n_items))
    assert (extended.n_words, extended.size, extended.mask) == (50_265, 50_277, 50_264)
    texts = ["user_22 item_1234", "Crème brûlée <a b_5>"]
    assert extended.encode(texts) == words.encode(texts)
    assert extended.encode(["user_7 <a_0><b_3> <c_1>"])[0][-3:] == [50_265, 50_272, 50_274]
    assert words.size == 50_265  # with_symbols made a copy


# ------------------------------------------------------------------------------------ the model


def no_vectors(columns: int, window: int, seed: int) -> np.ndarray:
    raise AssertionError("the paper's model does not initialise items from vectors")


@pytest.mark.parametrize("rows", [0, 3])
def test_the_tokens_of_a_checkpoint_keep_their_logits(
    rows: int, sequences: UserSequences, tmp_path: Path
) -> None:
    """The checkpoint has `rows` more embedding rows than its tokenizer has tokens."""
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

    bart_shape = dataclasses.replace(shape, vocab_size=read_shape(folder).vocab_size)
    bart_graph, _ = abstract_model(bart_shape, sequences.n_users, sequences.n_items)
    start = init_params(bart_shape, sequences.n_users, sequences.n_items, seed=0)
    start |= {name: params[name] for name in ("user_embedding", "item_embedding")}
    bart_params = load_params(folder, bart_shape, start)

    plan = plan_batches(
        next_item_examples(sequences, 2).take(np.arange(6)),
        token_lengths(catalogue.table, 64),
        *(6, 1, "test"),
    )
    ((bucket, order),) = plan.in_order()
    batch, table = plan.pad(bucket, order), put_on_device(catalogue.table)
    # Inputs without items, because the symbols of item codes exist in only one of the models.
    empty = jnp.full_like(jnp.asarray(batch.histories), -1)
    masked = append_mask(empty, table.mask_row)
    inputs = encoder_input(table, jnp.asarray(batch.users), masked, bucket.n_tokens)
    decoder = jnp.full((6, 2), vocabulary.eos)
    logits = jax.jit(lambda graph, params: merge(graph, params)(inputs, decoder), static_argnums=0)
    result, expected = logits(graph, params), logits(bart_graph, bart_params)
    kept = slice(vocabulary.n_words)
    np.testing.assert_allclose(result[..., kept], expected[..., kept], atol=1e-5)

    for name in ("token_embedding", "final_logits_bias"):
        result, expected = (np.asarray(one[name])[kept] for one in (params, bart_params))
        np.testing.assert_array_equal(result, expected)
    added = np.asarray(params["token_embedding"])[vocabulary.n_words : vocabulary.size]
    assert abs(added.std() / shape.init_std - 1) < 0.2
    bias = np.asarray(params["final_logits_bias"])[vocabulary.n_words : vocabulary.size]
    assert not bias.any()


def test_a_model_with_codes_cannot_be_exported(coded_catalogue: Catalogue, tmp_path: Path) -> None:
    config = Config(model=ModelConfig(d_model=16, attention_heads=2))
    shape = FAMILY.make_shape(config, coded_catalogue, None, 0)
    with pytest.raises(
        InputError, match=r"config\.indexing: found 'collaborative' in .* have codes"
    ):
        write_folder(tmp_path / "out", coded_catalogue, shape, {}, Origin("run", 1, "synthetic"))
    assert not (tmp_path / "out").exists()
