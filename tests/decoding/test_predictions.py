"""Files of rankings: contents, order, and resuming after an interruption."""

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
from genrec_jax.decoding.ranker import Ranker, without_progress
from genrec_jax.decoding.ranking import Rankings, join
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.contract import init_params
from genrec_jax.models.genrec.config import GenRecEvaluateConfig
from genrec_jax.models.genrec.model import GenRecShape

CHUNK = 13  # 60 users: four full chunks and a partial one
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
    return next_item_examples(sequences, n_excluded=0)


@pytest.fixture(scope="module")
def rankings(ranker: Ranker, examples: Examples) -> Rankings:
    return ranker.rank(ranker.plan(examples, "test"), "test")


class Watch:
    """Count the batches that are ranked, and interrupt the ranking at one of them."""

    def __init__(self, stop_at: int | None = None):
        self.batches = 0
        self.stop_at = stop_at

    def __call__(self, batches, label: str, total: int) -> Iterator:
        for batch in batches:
            if self.batches == self.stop_at:
                raise KeyboardInterrupt
            self.batches += 1
            yield batch


def write(path: Path, ranker: Ranker, examples: Examples, watch) -> Rankings:
    plan = ranker.plan(examples, "test")
    return join(rank_to_file(path, ranker, examples, plan, "test", watch, CHUNK))


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_the_file_contains_every_ranking_in_order_with_the_datasets_ids(
    suffix: str, ranker, examples, rankings, catalogue, tmp_path: Path
) -> None:
    path = tmp_path / f"lists{suffix}"
    found = write(path, ranker, examples, without_progress)
    np.testing.assert_array_equal(found.items, rankings.items)
    # The padding of a batch differs by chunk, which changes the last digit.
    np.testing.assert_allclose(found.scores, rankings.scores, rtol=1e-5)
    if suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["user"] for row in rows] == catalogue.user_ids[examples.users].tolist()
    assert [row["target"] for row in rows] == catalogue.item_ids[examples.targets].tolist()
    assert [row["items"] for row in rows] == catalogue.item_ids[rankings.items].tolist()
    scores = np.array([row["scores"] for row in rows])
    np.testing.assert_allclose(scores, rankings.scores, atol=1e-5)
    assert sorted(tmp_path.iterdir()) == [path]


def test_close_parameters_in_bfloat16_are_distinguished(
    catalogue: Catalogue, shape: GenRecShape
) -> None:
    """A ranking resumes only with the same parameters, so their sums need more than 8 bits."""
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


def test_an_interrupted_ranking_resumes(ranker, examples, rankings, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    everything = Watch()
    write(whole, ranker, examples, everything)
    with pytest.raises(KeyboardInterrupt):
        write(cut, ranker, examples, Watch(stop_at=6))
    assert not cut.exists()
    parts = sorted((tmp_path / "cut.parquet.parts").glob("*.parquet"))
    assert len(parts) == 2  # each chunk of 13 takes two batches of 8
    remaining = Watch()
    resumed = write(cut, ranker, examples, remaining)
    assert remaining.batches == everything.batches - 4
    np.testing.assert_array_equal(resumed.items, rankings.items)
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
    damage: str, ranker, examples, rankings, tmp_path: Path
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
    np.testing.assert_array_equal(found.items, rankings.items)


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    parts = tmp_path / "lists.parquet.parts"
    parts.mkdir()
    (parts / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match=r"lists\.parquet\.parts: found other files"):
        check_writable(tmp_path / "lists.parquet", "--output")
    assert (parts / "mine.txt").read_text() == "precious"


def test_invalid_search_settings_are_rejected(catalogue, shape) -> None:
    for changes in ({"search": "bogus"}, {"beams": 5}):
        with pytest.raises(InputError):
            a_ranker(catalogue, shape, **changes)


@pytest.mark.parametrize("search", ["constrained", "exhaustive"])
def test_rankings_exclude_the_history_even_its_truncated_items(
    search: str, catalogue, shape, examples
) -> None:
    """Many of these histories do not fit into 24 tokens."""
    ranker = a_ranker(catalogue, shape, max_tokens=24, exclude_history=True, search=search)
    plan = ranker.plan(examples, "test")
    assert np.mean(plan.examples.starts > examples.starts) > 0.3
    rankings = ranker.rank(plan, "test")
    for row in range(len(examples)):
        found = set(rankings.items[row].tolist())
        assert len(found) == 10
        assert min(found) >= 0
        assert not found & set(examples.history(row).tolist())


def test_as_many_beams_as_items_find_the_exact_rankings(catalogue, shape, examples) -> None:
    ranker = a_ranker(catalogue, shape, beams=40, top_k=40)
    plan = ranker.plan(examples, "test")
    by_beams = ranker.rank(plan, "test")
    exact = ranker.rank(plan, "test", search="exhaustive")
    np.testing.assert_array_equal(by_beams.items, exact.items)
    np.testing.assert_allclose(by_beams.scores, exact.scores, atol=1e-4)
    assert np.all(np.sort(exact.items, axis=1) == np.arange(40))
    total = jax.nn.logsumexp(exact.scores, axis=1)
    assert np.all(np.asarray(total) < 0)  # texts that are no item have a probability too


def test_paths_are_checked_before_anything_is_ranked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path / "lists.csv", r"lists\.csv: found .*'\.csv', expected \.parquet or \.jsonl"),
        (tmp_path / "file" / "lists.parquet", "cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            check_writable(path, "--output")
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / ("x" * 248 + ".parquet"), "--output")
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(InputError, match="found a folder"):
        check_writable(tmp_path / "a.parquet", "--output")
