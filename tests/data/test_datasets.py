"""The named datasets, their download, and the synthetic dataset with its oracle."""

import functools
import hashlib
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest

from genrec_jax.core.errors import InputError
from genrec_jax.data import datasets
from genrec_jax.data.datasets import Asset, load_named
from genrec_jax.data.sequences import next_item_examples
from genrec_jax.data.synthetic import (
    SyntheticSpec,
    oracle_rankings,
    synthetic_sequences,
    transition_matrix,
)
from genrec_jax.evaluation.metrics import metrics

# Table 2 of the paper: users, items, items per user, users per item; and the longest sequence.
TABLE_2 = {
    "sports": (35_598, 18_357, 8.3, 16.1, 296),
    "beauty": (22_363, 12_101, 8.9, 16.4, 204),
    "yelp": (30_431, 20_033, 10.4, 15.8, 350),
}


@pytest.mark.parametrize("name", TABLE_2)
def test_statistics_match_table_2(name: str, data_dir: Path) -> None:
    sequences = load_named(name, str(data_dir))
    n = len(sequences.items)
    found = (
        sequences.n_users,
        sequences.n_items,
        round(n / sequences.n_users, 1),
        round(n / sequences.n_items, 1),
        sequences.lengths.max(),
    )
    assert found == TABLE_2[name]
    assert sequences.lengths.min() == 5
    np.testing.assert_array_equal(sequences.user_ids, np.arange(1, sequences.n_users + 1))
    np.testing.assert_array_equal(sequences.item_ids, np.arange(1, sequences.n_items + 1))


def test_environment_folder_is_used(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setenv("GENREC_DATA_DIR", str(data_dir))
    assert load_named("beauty").n_users == 22_363


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server(tmp_path: Path):
    """A local web server for tmp_path/web: its folder and its URL."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_download_is_verified_and_cached(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = server
    content = b"1 5 6 7\n2 6 7 5\n"
    (folder / "Beauty.txt").write_bytes(content)
    good = Asset(
        "Beauty.txt",
        f"{url}/Beauty.txt",
        len(content),
        hashlib.sha256(content).hexdigest(),
        licence="none",
    )
    cache = tmp_path / "cache"
    monkeypatch.setenv("GENREC_CACHE_DIR", str(cache))
    monkeypatch.delenv("GENREC_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets, "named_datasets", lambda: {"beauty": good})
    assert load_named("beauty").n_users == 2
    assert [path.name for path in cache.iterdir()] == ["Beauty.txt"]
    (folder / "Beauty.txt").unlink()  # the cached file is used without the network
    assert load_named("beauty").n_items == 3

    (cache / "Beauty.txt").unlink()
    (folder / "Beauty.txt").write_bytes(content + b"3 5 6 7\n")
    with pytest.raises(InputError, match=r"cannot be downloaded .* hash"):
        load_named("beauty")
    assert list(cache.iterdir()) == []  # a file with a wrong checksum is not cached


def test_the_oracle_reaches_the_best_expected_hit_rate() -> None:
    spec = SyntheticSpec(users=20_000)
    matrix = transition_matrix(spec)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0)
    np.testing.assert_allclose(matrix.sum(axis=0), 1.0)  # items are equally popular in the long run
    sequences = synthetic_sequences(spec)
    assert sequences.lengths.min() == spec.shortest
    assert sequences.lengths.max() == spec.longest
    examples = next_item_examples(sequences, n_excluded=0)
    reached = metrics(oracle_rankings(spec, examples, 10), examples.targets)["HR@10"]
    # The ten largest probabilities of each row, averaged over the last items of the histories.
    last = sequences.items[examples.stops - 1]
    expected = np.sort(matrix, axis=1)[:, -10:].sum(axis=1)[last].mean()
    assert abs(reached - expected) < 4 * np.sqrt(0.25 / len(examples))


def test_the_oracle_without_history_items_matches_plain_loops() -> None:
    spec = SyntheticSpec(users=50, items=15)
    matrix = transition_matrix(spec)
    examples = next_item_examples(synthetic_sequences(spec), n_excluded=0)
    found = oracle_rankings(spec, examples, 10, exclude_history=True)
    for row in range(len(examples)):
        history = examples.history(row).tolist()
        ranked = sorted(range(15), key=lambda item: (-matrix[history[-1], item], item))
        expected = [item for item in ranked if item not in history]
        assert found[row].tolist() == (expected + [-1] * 10)[:10]


def test_walks_follow_the_transition_matrix() -> None:
    spec = SyntheticSpec(users=20_000, items=20, successors=3)
    sequences = synthetic_sequences(spec)
    is_last = np.zeros(len(sequences.items), dtype=bool)
    is_last[sequences.offsets[1:] - 1] = True
    current = np.flatnonzero(~is_last)
    counts = np.zeros((20, 20))
    np.add.at(counts, (sequences.items[current], sequences.items[current + 1]), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    bound = 5 * np.sqrt(0.25 / counts.sum(axis=1).min())
    assert np.abs(shares - transition_matrix(spec)).max() < bound
