"""Our token table on BART's real tokenizer against `transformers` on whole sentences."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from transformers import BartTokenizer

from genrec_jax.core.errors import InputError
from genrec_jax.data.datasets import load_named
from genrec_jax.data.sequences import next_item_examples
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.indexing import make_indexing
from genrec_jax.identifiers.input_lengths import plan_batches, token_lengths
from genrec_jax.identifiers.token_table import build_token_table
from genrec_jax.identifiers.tokenizer import load_bart_tokenizer
from genrec_jax.models.genrec.inputs import encoder_input
from genrec_jax.models.masking import append_mask
from genrec_jax.models.tables import put_on_device


@pytest.fixture(scope="module")
def tokenizer(bart_dir: Path) -> BartTokenizer:
    return BartTokenizer.from_pretrained(str(bart_dir), add_prefix_space=True)


@pytest.fixture(scope="module", params=["published", "random"])
def beauty(request: pytest.FixtureRequest, data_dir: Path, bart_dir: Path):
    sequences = load_named("beauty", str(data_dir))
    indexing = make_indexing(request.param, sequences, seed=0)
    return sequences, Catalogue.build(sequences, indexing, load_bart_tokenizer(bart_dir))


def test_sentences_are_what_transformers_makes_of_the_text(beauty, tokenizer) -> None:
    """The paper's sentence as text, tokenized whole, for 64 users of all lengths."""
    sequences, catalogue = beauty
    users, items = catalogue.indexing.user_identifiers(), catalogue.indexing.item_identifiers()
    rows = np.argsort(sequences.lengths, kind="stable")[:: sequences.n_users // 63]
    examples = next_item_examples(sequences, n_excluded=0).take(rows)
    plan = plan_batches(examples, token_lengths(catalogue.table, 512), len(rows), 1, "test")
    (bucket, order), *rest = plan.in_order()
    assert not rest
    batch = plan.pad(bucket, order)
    table = put_on_device(catalogue.table)
    masked = append_mask(jnp.asarray(batch.histories), table.mask_row)
    tokens = np.asarray(
        encoder_input(table, jnp.asarray(batch.users), masked, bucket.n_tokens).tokens
    )
    for row, found in zip(order, tokens, strict=True):
        names = [items[item] for item in plan.examples.history(row)]
        text = " ".join([users[plan.examples.users[row]], *names])
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = [0, *expected, tokenizer.mask_token_id, 2]
        assert found.tolist() == expected + [1] * (bucket.n_tokens - len(expected))
        assert len(expected) <= 512


@pytest.mark.parametrize("dataset", ["beauty", "sports", "yelp"])
def test_every_name_has_the_tokens_it_has_inside_a_sentence(
    dataset: str, tokenizer, data_dir: Path, bart_dir: Path
) -> None:
    """All users and items, in sentences of 500 names in random order, by `transformers`."""
    sequences = load_named(dataset, str(data_dir))
    published, random = (make_indexing(kind, sequences, seed=0) for kind in ("published", "random"))
    names = [*published.item_identifiers(), *published.user_identifiers()]
    assert sorted(names) == sorted([*random.item_identifiers(), *random.user_identifiers()])
    assert len(set(names)) == sequences.n_items + sequences.n_users

    shuffled = np.random.default_rng(0).permutation(names).tolist()
    sentences = [shuffled[start : start + 500] for start in range(0, len(shuffled), 500)]
    expected = {}
    texts = [" ".join(sentence) for sentence in sentences]
    encoded = tokenizer(texts, return_offsets_mapping=True)
    for sentence, ids, offsets in zip(
        sentences, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        assert (ids[0], ids[-1]) == (0, 2)  # <s> and </s>
        firsts = np.cumsum([0, *(len(name) + 1 for name in sentence)])  # characters
        starts = np.searchsorted([start for start, _ in offsets[1:-1]], firsts)
        for name, start, stop in zip(sentence, starts, starts[1:], strict=False):
            expected[name] = ids[1 + start : 1 + stop]

    vocabulary = load_bart_tokenizer(bart_dir)
    for indexing in (published, random):
        items, users = indexing.item_identifiers(), indexing.user_identifiers()
        table = build_token_table(vocabulary, items, users)
        rows = [*items, "<mask>", *users]
        found = {
            name: tokens[:length].tolist()
            for name, tokens, length in zip(rows, table.tokens, table.lengths, strict=True)
        }
        assert found.pop("<mask>") == [tokenizer.mask_token_id]
        assert found == expected


def test_the_paper_splits_item_1234_into_four_tokens(bart_dir: Path) -> None:
    vocabulary = load_bart_tokenizer(bart_dir)
    ids = vocabulary.encode(["item_1234"])[0]
    words = [vocabulary.tokenizer.id_to_token(token) for token in ids]
    assert words == ["Ġitem", "_", "12", "34"]
    special = (vocabulary.bos, vocabulary.pad, vocabulary.eos, vocabulary.mask, vocabulary.size)
    assert special == (0, 1, 2, 50264, 50265)


def test_a_catalogue_is_read_back_as_it_was_saved(beauty, tmp_path: Path) -> None:
    _, catalogue = beauty
    catalogue.save(tmp_path)
    again = Catalogue.load(tmp_path)
    for name in ("tokens", "lengths"):
        np.testing.assert_array_equal(getattr(again.table, name), getattr(catalogue.table, name))
    np.testing.assert_array_equal(again.trie.items, catalogue.trie.items)
    np.testing.assert_array_equal(again.indexing.item_numbers, catalogue.indexing.item_numbers)
    assert (again.table.n_items, again.table.n_users) == (12_101, 22_363)
    assert again.vocabulary.encode(["item_7"]) == catalogue.vocabulary.encode(["item_7"])


def test_random_indexing_is_a_seeded_permutation(data_dir: Path) -> None:
    sequences = load_named("beauty", str(data_dir))
    one, same, other = (make_indexing("random", sequences, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.item_numbers, same.item_numbers)
    assert np.mean(one.item_numbers == other.item_numbers) < 0.01
    np.testing.assert_array_equal(np.sort(one.item_numbers), sequences.item_ids)
    np.testing.assert_array_equal(np.sort(one.user_numbers), sequences.user_ids)
    rank = np.corrcoef(one.item_numbers, sequences.item_ids)[0, 1]
    assert abs(rank) < 4 / np.sqrt(sequences.n_items)


def test_a_merges_file_that_was_cut_short_is_refused(bart_dir: Path, tmp_path: Path) -> None:
    merges = (bart_dir / "merges.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "vocab.json").write_bytes((bart_dir / "vocab.json").read_bytes())
    for kept in (len(merges) // 2, len(merges) - 100, 1):
        (tmp_path / "merges.txt").write_text("".join(merges[:kept]), encoding="utf-8")
        with pytest.raises(InputError, match=r"merges\.txt produces \d+ tokens"):
            load_bart_tokenizer(tmp_path)
