"""Our token table with BART's tokenizer, compared with `transformers` on complete texts."""

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


def test_input_sequences_equal_those_of_transformers(beauty, tokenizer) -> None:
    """Tokenize the paper's input text as a whole, for 64 users with short and long histories."""
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
    for row, result in zip(order, tokens, strict=True):
        history = [items[item] for item in plan.examples.history(row)]
        text = " ".join([users[plan.examples.users[row]], *history])
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = [0, *expected, tokenizer.mask_token_id, 2]
        assert result.tolist() == expected + [1] * (bucket.n_tokens - len(expected))
        assert len(expected) <= 512


@pytest.mark.parametrize("dataset", ["beauty", "sports", "yelp"])
def test_every_identifier_has_the_tokens_that_it_has_within_a_text(
    dataset: str, tokenizer, data_dir: Path, bart_dir: Path
) -> None:
    """`transformers` tokenizes texts of 500 random identifiers, with all users and items."""
    sequences = load_named(dataset, str(data_dir))
    published, random = (make_indexing(kind, sequences, seed=0) for kind in ("published", "random"))
    identifiers = [*published.item_identifiers(), *published.user_identifiers()]
    assert sorted(identifiers) == sorted([*random.item_identifiers(), *random.user_identifiers()])
    assert len(set(identifiers)) == sequences.n_items + sequences.n_users

    shuffled = np.random.default_rng(0).permutation(identifiers).tolist()
    groups = [shuffled[start : start + 500] for start in range(0, len(shuffled), 500)]
    expected = {}
    encoded = tokenizer([" ".join(group) for group in groups], return_offsets_mapping=True)
    for group, ids, offsets in zip(
        groups, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        assert (ids[0], ids[-1]) == (0, 2)  # <s> and </s>
        firsts = np.cumsum([0, *(len(identifier) + 1 for identifier in group)])  # characters
        starts = np.searchsorted([start for start, _ in offsets[1:-1]], firsts)
        for identifier, start, stop in zip(group, starts, starts[1:], strict=False):
            expected[identifier] = ids[1 + start : 1 + stop]

    vocabulary = load_bart_tokenizer(bart_dir)
    for indexing in (published, random):
        items, users = indexing.item_identifiers(), indexing.user_identifiers()
        table = build_token_table(vocabulary, items, users)
        rows = [*items, "<mask>", *users]
        result = {
            identifier: tokens[:length].tolist()
            for identifier, tokens, length in zip(rows, table.tokens, table.lengths, strict=True)
        }
        assert result.pop("<mask>") == [tokenizer.mask_token_id]
        assert result == expected


def test_item_1234_has_the_four_tokens_given_in_the_paper(bart_dir: Path) -> None:
    vocabulary = load_bart_tokenizer(bart_dir)
    ids = vocabulary.encode(["item_1234"])[0]
    words = [vocabulary.tokenizer.id_to_token(token) for token in ids]
    assert words == ["Ġitem", "_", "12", "34"]
    special = (vocabulary.bos, vocabulary.pad, vocabulary.eos, vocabulary.mask, vocabulary.size)
    assert special == (0, 1, 2, 50264, 50265)


def test_a_loaded_catalogue_equals_the_saved_one(beauty, tmp_path: Path) -> None:
    _, catalogue = beauty
    catalogue.save(tmp_path)
    loaded = Catalogue.load(tmp_path)
    for field in ("tokens", "lengths"):
        np.testing.assert_array_equal(getattr(loaded.table, field), getattr(catalogue.table, field))
    np.testing.assert_array_equal(loaded.trie.items, catalogue.trie.items)
    np.testing.assert_array_equal(loaded.indexing.item_numbers, catalogue.indexing.item_numbers)
    assert (loaded.table.n_items, loaded.table.n_users) == (12_101, 22_363)
    assert loaded.vocabulary.encode(["item_7"]) == catalogue.vocabulary.encode(["item_7"])


def test_random_indexing_is_a_seeded_permutation(data_dir: Path) -> None:
    sequences = load_named("beauty", str(data_dir))
    one, same, other = (make_indexing("random", sequences, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.item_numbers, same.item_numbers)
    assert np.mean(one.item_numbers == other.item_numbers) < 0.01
    np.testing.assert_array_equal(np.sort(one.item_numbers), sequences.item_ids)
    np.testing.assert_array_equal(np.sort(one.user_numbers), sequences.user_ids)
    rank = np.corrcoef(one.item_numbers, sequences.item_ids)[0, 1]
    assert abs(rank) < 4 / np.sqrt(sequences.n_items)


def test_a_truncated_merges_file_is_an_error(bart_dir: Path, tmp_path: Path) -> None:
    merges = (bart_dir / "merges.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "vocab.json").write_bytes((bart_dir / "vocab.json").read_bytes())
    for kept in (len(merges) // 2, len(merges) - 100, 1):
        (tmp_path / "merges.txt").write_text("".join(merges[:kept]), encoding="utf-8")
        with pytest.raises(InputError, match=r"merges\.txt produces \d+ tokens"):
            load_bart_tokenizer(tmp_path)
