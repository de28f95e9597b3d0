"""Titles as names: unique, short enough, distinct to any tokenizer, found by the search."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from setups import genrec_setup
from titled import titles, write_titled

from genrec_jax.data.prepared import LogMetadata, read_log_metadata, read_prepared
from genrec_jax.data.sequences import UserSequences, next_item_examples
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.indexing import make_indexing
from genrec_jax.identifiers.titles import TitleIdentifiers, clean_title, title_identifiers
from genrec_jax.identifiers.tokenizer import Vocabulary, load_bart_tokenizer, train_tokenizer
from genrec_jax.models.contract import init_params
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.models.run_config import BeamConfig

LIMIT = 12
CLEAN = [clean_title(title) for title in titles(200)]


def trained(texts: list[str], size: int = 600) -> Vocabulary:
    digits = [f"user_{number} item_{number}" for number in range(1, 301)]
    return train_tokenizer([text for text in texts if text] + digits, size, by_word=True)


@pytest.fixture(params=["trained", "bart"])
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    if request.param == "trained":
        return trained(CLEAN)
    return load_bart_tokenizer(request.getfixturevalue("bart_dir"))


def made(texts: list[str], vocabulary: Vocabulary, limit: int = LIMIT) -> TitleIdentifiers:
    return title_identifiers(texts, np.arange(1, len(texts) + 1), vocabulary, limit)


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        (None, ""),
        (" \t\n ", ""),
        ("  Two\tspaces \n and a line  ", "Two spaces and a line"),
        ("no\u00a0break\u2028line\u3000wide", "no break line wide"),
        ("nul\x00 and \x1b[31m\x85escape", "nul and [31m escape"),
        ("</s><mask> a<pad>b<unk><s>", "/s mask a pad b unk s"),
        ("<<mask>mask>", "< mask mask>"),
        ("e\u0301", "é"),
        ("Item_7 <b>", "Item_7 <b>"),
    ],
)
def test_cleaning(title: str | None, expected: str) -> None:
    assert clean_title(title) == expected
    assert clean_title(expected) == expected


def test_names_are_different_short_and_round_trip(vocabulary: Vocabulary) -> None:
    found = made(CLEAN, vocabulary)
    encoded = vocabulary.encode(list(found.identifiers))
    assert len({tuple(tokens) for tokens in encoded}) == len(set(found.identifiers)) == 200
    numbered = 0
    for row, (name, tokens) in enumerate(zip(found.identifiers, encoded, strict=True)):
        assert vocabulary.decode(np.array(tokens)) == name
        base = name.removesuffix(f" {row + 1}")
        numbered += base != name
        assert len(vocabulary.encode([base])[0]) <= LIMIT
        special = {vocabulary.bos, vocabulary.pad, vocabulary.eos, vocabulary.mask}
        assert not special & set(tokens)
        if CLEAN[row]:
            assert CLEAN[row].startswith(base)
            assert base == CLEAN[row] or base == base.rstrip()
        else:
            assert base == f"item_{row + 1}"
    # A title that ends with the item's own number would be counted too; none here does.
    assert numbered == found.numbered > 2
    assert found.untitled == 2
    assert 0 < found.cut_in_a_word < found.cut


def test_cutting_is_behind_a_word_where_there_is_one(vocabulary: Vocabulary) -> None:
    words = "Professional Moisturizing Conditioner for dry damaged and coloured hair 16 oz bottle"
    long_words = ["creamhairface" * 20, "日本語" * 30, "🧴" * 40]
    found = made([f"{words} {number}" for number in ("one", "two")] + long_words, vocabulary)
    for name in found.identifiers[:2]:
        base = name.rpartition(" ")[0]  # they are the same now, and numbered
        assert f"{words} ".startswith(f"{base} ")
        more = words[len(base) :].split()[0]
        assert len(vocabulary.encode([f"{base} {more}"])[0]) > LIMIT
    for title, name in zip(long_words, found.identifiers[2:], strict=True):
        assert title.startswith(name)
        assert 0 < len(vocabulary.encode([name])[0]) <= LIMIT
    assert (found.cut, found.cut_in_a_word, found.numbered) == (5, 3, 2)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "b"], ["a 1", "a 2", "b"]),
        (["", "a", ""], ["item_1", "a", "item_3"]),
        (["", "item_1"], ["item_1 1", "item_1 2"]),
        # The name that a number makes is another item's title: that gets its own.
        (["a", "a", "a 2"], ["a 1", "a 2", "a 2 3"]),
        (["a", "a", "a 2", "a 2 3"], ["a 1", "a 2", "a 2 3", "a 2 3 4"]),
    ],
)
def test_the_rule_that_makes_names_unique(texts: list[str], expected: list[str]) -> None:
    assert list(made(texts, trained(texts)).identifiers) == expected


def test_case_is_kept_and_a_tokenizer_that_folds_it_gets_numbers() -> None:
    from tokenizers import normalizers

    vocabulary = trained(["Soap", "soap"])
    assert made(["Soap", "soap"], vocabulary).identifiers == ("Soap", "soap")
    vocabulary.tokenizer.normalizer = normalizers.Lowercase()
    assert made(["Soap", "soap"], vocabulary).identifiers == ("Soap 1", "soap 2")


def test_random_texts_always_come_out_different() -> None:
    """Short texts of few letters, digits and separators, so that most collide."""
    rng = np.random.default_rng(0)
    letters = list("ab1 2 _é\n<>")
    for _ in range(30):
        raw = ["".join(rng.choice(letters, rng.integers(0, 7))) for _ in range(60)]
        texts = [clean_title(text) for text in raw]
        vocabulary = trained(texts, 300)
        numbers = rng.permutation(60) + 1
        names = title_identifiers(texts, numbers, vocabulary, 8).identifiers
        assert len({tuple(one) for one in vocabulary.encode(list(names))}) == 60
        assert names == title_identifiers(texts, numbers, vocabulary, 8).identifiers


# ----------------------------------------------------------------------- in the catalogue


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[UserSequences, LogMetadata]:
    folder = write_titled(tmp_path_factory.mktemp("prepared") / "titled")
    return read_prepared(folder), read_log_metadata(folder)


def make_catalogue(dataset: tuple[UserSequences, LogMetadata], vocabulary: Vocabulary) -> Catalogue:
    sequences, names = dataset
    indexing = make_indexing("title", sequences, seed=0)
    found = title_identifiers(CLEAN, indexing.item_numbers, vocabulary, LIMIT)
    indexing = dataclasses.replace(indexing, item_texts=found.identifiers)
    return Catalogue.build(sequences, indexing, vocabulary, names)


def test_the_catalogue_keeps_names_and_titles(dataset, vocabulary: Vocabulary, tmp_path) -> None:
    catalogue = make_catalogue(dataset, vocabulary)
    catalogue.save(tmp_path)
    again = Catalogue.load(tmp_path)
    assert again.log_metadata == catalogue.log_metadata
    assert again.indexing.kind == "title"
    assert again.indexing.item_texts == catalogue.indexing.item_texts
    np.testing.assert_array_equal(again.table.tokens, catalogue.table.tokens)
    assert catalogue.table.item_lengths.max() > 2 * catalogue.table.item_lengths.min()


def a_ranker(catalogue: Catalogue, evaluate: BeamConfig) -> Ranker:
    shape = GenRecShape(
        vocab_size=catalogue.vocabulary.size,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_heads=2,
        decoder_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_positions=256,
        init_std=0.3,
    )
    params = init_params(shape, catalogue.table.n_users, catalogue.table.n_items, seed=0)
    return Ranker(genrec_setup(catalogue, shape), evaluate, 1, "next_item", params)


@pytest.mark.parametrize(
    ("vocabulary", "exclude"),
    [("trained", True), pytest.param("bart", False, marks=pytest.mark.slow)],
    indirect=["vocabulary"],
)
def test_every_list_is_full(dataset, vocabulary: Vocabulary, exclude: bool) -> None:
    """LogMetadata of 1 to 15 tokens, some the beginning of others."""
    catalogue = make_catalogue(dataset, vocabulary)
    lengths = catalogue.table.item_lengths
    rows = [tuple(row[:n]) for row, n in zip(catalogue.table.item_tokens, lengths, strict=True)]
    assert any(a != b and b[: len(a)] == a for a in rows for b in rows)
    examples = next_item_examples(dataset[0], n_excluded=0).take(np.arange(4))
    evaluate = BeamConfig(batch_size=4, beams=20, top_k=20, exclude_history=exclude)
    ranker = a_ranker(catalogue, evaluate)
    lists = ranker.rank(ranker.plan(examples, "test"), "test")
    for row, items in enumerate(lists.items):
        assert len(set(items.tolist())) == 20
        assert items.min() >= 0
        if exclude:
            assert not set(items.tolist()) & set(examples.history(row).tolist())


@pytest.mark.slow
def test_as_many_beams_as_items_find_the_exact_lists(dataset) -> None:
    catalogue = make_catalogue(dataset, trained(CLEAN))
    examples = next_item_examples(dataset[0], n_excluded=0).take(np.arange(4))
    ranker = a_ranker(catalogue, BeamConfig(batch_size=4, beams=200, top_k=200))
    plan = ranker.plan(examples, "test")
    by_beams = ranker.rank(plan, "test")
    exact = ranker.rank(plan, "test", search="exhaustive")
    np.testing.assert_allclose(by_beams.scores, exact.scores, atol=1e-3)
    assert np.mean(by_beams.items == exact.items) > 0.98  # but for ties in rounding


def test_published_names_are_untouched(sequences: UserSequences, bart_dir: Path) -> None:
    """Merges of the trained tokenizer span names as before, and BART's pieces are BART's."""
    indexing = make_indexing("published", sequences, seed=0)
    assert indexing.item_identifiers()[:2] == ["item_1", "item_2"]
    vocabulary = train_tokenizer(indexing.item_identifiers() + indexing.user_identifiers(), 400)
    assert vocabulary.encode(["item_12"]) == [[vocabulary.tokenizer.token_to_id("Ġitem_12")]]
    assert load_bart_tokenizer(bart_dir).encode(["item_12"]) == [[6880, 1215, 1092]]
