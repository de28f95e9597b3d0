"""Ranked lists in files: whole, in order, and gone on with after a kill."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from setups import genrec_setup

from genrec_jax.core.errors import InputError
from genrec_jax.data.sequences import Examples, UserSequences, next_item_examples
from genrec_jax.decoding.predictions import _identity, check_writable, rank_to_file
from genrec_jax.decoding.ranker import Ranker, unwatched
from genrec_jax.decoding.ranking import RankedLists, join
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.contract import init_params
from genrec_jax.models.genrec.config import GenRecEvaluateConfig
from genrec_jax.models.genrec.model import GenRecShape

CHUNK = 13  # 60 users: four chunks and a rest
EVALUATE = GenRecEvaluateConfig(batch_size=8, beams=12, top_k=10)


@pytest.fixture(scope="module")
def shape(catalogue: Catalogue) -> GenRecShape:
    return GenRecShape(
        vocab_size=catalogue.vocabulary.size,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_heads=2,
        decoder_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_positions=80,
        init_std=0.3,
    )


def a_ranker(
    catalogue: Catalogue, shape: GenRecShape, seed: int = 0, max_tokens: int = 80, **changes
) -> Ranker:
    params = init_params(shape, catalogue.table.n_users, catalogue.table.n_items, seed)
    evaluate = dataclasses.replace(EVALUATE, **changes)
    setup = genrec_setup(catalogue, shape, max_tokens)
    return Ranker(setup, evaluate, 2, "next_item", params)


@pytest.fixture(scope="module")
def ranker(catalogue: Catalogue, shape: GenRecShape) -> Ranker:
    return a_ranker(catalogue, shape)


@pytest.fixture(scope="module")
def examples(sequences: UserSequences) -> Examples:
    return next_item_examples(sequences, holdout=0)


@pytest.fixture(scope="module")
def lists(ranker: Ranker, examples: Examples) -> RankedLists:
    return ranker.rank(ranker.plan(examples, "test"), "test")


class Watch:
    """Counts the batches that are ranked, and stops the ranking at one of them."""

    def __init__(self, stop_at: int | None = None):
        self.batches = 0
        self.stop_at = stop_at

    def __call__(self, batches, label: str, total: int) -> Iterator:
        for batch in batches:
            if self.batches == self.stop_at:
                raise KeyboardInterrupt
            self.batches += 1
            yield batch


def write(path: Path, ranker: Ranker, examples: Examples, watch) -> RankedLists:
    plan = ranker.plan(examples, "test")
    return join(rank_to_file(path, ranker, examples, plan, "test", watch, CHUNK))


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_the_file_holds_every_list_in_order_by_the_datasets_ids(
    suffix: str, ranker, examples, lists, catalogue, tmp_path: Path
) -> None:
    path = tmp_path / f"lists{suffix}"
    found = write(path, ranker, examples, unwatched)
    np.testing.assert_array_equal(found.items, lists.items)
    # The padding of a batch differs by chunk, and with it the last digit.
    np.testing.assert_allclose(found.scores, lists.scores, rtol=1e-5)
    if suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["user"] for row in rows] == catalogue.user_ids[examples.users].tolist()
    assert [row["target"] for row in rows] == catalogue.item_ids[examples.targets].tolist()
    assert [row["items"] for row in rows] == catalogue.item_ids[lists.items].tolist()
    scores = np.array([row["scores"] for row in rows])
    np.testing.assert_allclose(scores, lists.scores, atol=1e-5)
    assert sorted(tmp_path.iterdir()) == [path]


def test_parameters_in_bfloat16_are_told_apart(catalogue: Catalogue, shape: GenRecShape) -> None:
    """A ranking is resumed for the same parameters alone: by sums of more than 8 bits."""
    examples = Examples(*(np.zeros(0, np.int64) for _ in dataclasses.fields(Examples)))
    ranker = a_ranker(catalogue, dataclasses.replace(shape, dtype="bfloat16"))
    params = ranker.params
    found = []
    for changed in (1.0, 1.0 + 2**-7):
        scale = jnp.ones(16).at[0].set(changed)
        params["encoder"]["embedding"]["norm"]["scale"] = scale
        ranker.params = params
        found.append(_identity(ranker, examples, CHUNK))
    assert found[0] != found[1]


def test_a_ranking_cut_short_goes_on_where_it_was(ranker, examples, lists, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    everything = Watch()
    write(whole, ranker, examples, everything)
    with pytest.raises(KeyboardInterrupt):
        write(cut, ranker, examples, Watch(stop_at=6))
    assert not cut.exists()
    parts = sorted((tmp_path / "cut.parquet.parts").glob("*.parquet"))
    assert len(parts) == 2  # each chunk of 13 takes two batches of 8
    rest = Watch()
    again = write(cut, ranker, examples, rest)
    assert rest.batches == everything.batches - 4
    np.testing.assert_array_equal(again.items, lists.items)
    assert cut.read_bytes() == whole.read_bytes()
    assert not parts[0].parent.exists()


def test_other_parameters_or_another_search_start_over(
    ranker, catalogue, shape, examples, tmp_path: Path
) -> None:
    path = tmp_path / "lists.parquet"
    for other in (
        a_ranker(catalogue, shape, seed=1),
        a_ranker(catalogue, shape, length_penalty=1.0),
    ):
        with pytest.raises(KeyboardInterrupt):
            write(path, ranker, examples, Watch(stop_at=6))
        found = write(path, other, examples, watch := Watch())
        assert watch.batches == 9
        expected = other.rank(other.plan(examples, "test"), "test")
        np.testing.assert_array_equal(found.items, expected.items)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_part_is_ranked_again(
    damage: str, ranker, examples, lists, tmp_path: Path
) -> None:
    path = tmp_path / "lists.parquet"
    with pytest.raises(KeyboardInterrupt):
        write(path, ranker, examples, Watch(stop_at=6))
    part = min((tmp_path / "lists.parquet.parts").glob("*.parquet"))
    content = part.read_bytes()
    flipped = bytes(255 - byte for byte in content[4:400]) + content[400:]
    part.write_bytes(content[:200] if damage == "cut" else content[:4] + flipped)
    found = write(path, ranker, examples, watch := Watch())
    assert watch.batches == 9 - 2
    np.testing.assert_array_equal(found.items, lists.items)


def test_somebody_elses_folder_is_not_touched(tmp_path: Path) -> None:
    parts = tmp_path / "lists.parquet.parts"
    parts.mkdir()
    (parts / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="holds something else"):
        check_writable(tmp_path / "lists.parquet", "--output")
    assert (parts / "mine.txt").read_text() == "precious"


def test_a_search_that_cannot_be_is_refused(catalogue, shape) -> None:
    for changes in ({"search": "bogus"}, {"beams": 5}):
        with pytest.raises(InputError):
            a_ranker(catalogue, shape, **changes)


@pytest.mark.parametrize("search", ["constrained", "exhaustive"])
def test_no_list_names_an_item_of_the_history_even_one_that_was_cut(
    search: str, catalogue, shape, examples
) -> None:
    """Most of these histories do not fit 24 tokens."""
    ranker = a_ranker(catalogue, shape, max_tokens=24, exclude_history=True, search=search)
    plan = ranker.plan(examples, "test")
    assert np.mean(plan.examples.starts > examples.starts) > 0.3
    lists = ranker.rank(plan, "test")
    for row in range(len(examples)):
        found = set(lists.items[row].tolist())
        assert len(found) == 10
        assert min(found) >= 0
        assert not found & set(examples.history(row).tolist())


def test_beams_as_many_as_items_find_the_exact_lists(catalogue, shape, examples) -> None:
    ranker = a_ranker(catalogue, shape, beams=40, top_k=40)
    plan = ranker.plan(examples, "test")
    by_beams = ranker.rank(plan, "test")
    exact = ranker.rank(plan, "test", search="exhaustive")
    np.testing.assert_array_equal(by_beams.items, exact.items)
    np.testing.assert_allclose(by_beams.scores, exact.scores, atol=1e-4)
    assert np.all(np.sort(exact.items, axis=1) == np.arange(40))
    total = jax.nn.logsumexp(exact.scores, axis=1)
    assert np.all(np.asarray(total) < 0)  # texts that are no item have a share too


def test_faults_are_told_before_anything_is_ranked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, told in (
        (tmp_path / "lists.csv", "expected a name that ends in .parquet or .jsonl"),
        (tmp_path / "file" / "lists.parquet", "cannot be written"),
    ):
        with pytest.raises(InputError, match=told):
            check_writable(path, "--output")
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / ("x" * 248 + ".parquet"), "--output")
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(InputError, match="found a folder"):
        check_writable(tmp_path / "a.parquet", "--output")
