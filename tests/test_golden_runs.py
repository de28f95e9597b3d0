"""A small run of every model family is stored here; later code must load it and rank as it did.

Where that is impossible, the format number of `runs/run_format.py` goes up, and the runs are
trained anew: `python tests/test_golden_runs.py [FAMILY …]`.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from repository import ROOT

from genrec_jax.main import main
from genrec_jax.models import FAMILIES
from genrec_jax.models.run_config import RunConfig
from genrec_jax.reporting.run_report import report_run
from genrec_jax.runs.config import config_from_dict, default_config
from genrec_jax.runs.dataset import load_sequences
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.runs.run_format import FORMAT
from genrec_jax.runs.stored_config import read_config
from genrec_jax.serving.recommender import Recommender
from genrec_jax.training.train import train

RUNS = ROOT / "tests" / "golden" / "runs"
# Of a family's defaults, where it has the key.
CHANGES = {
    "config.data.synthetic_users": 200,
    "config.data.synthetic_items": 30,
    "config.data.buckets": 1,
    "config.indexing": "random",
    "config.codes.dims": 8,
    "config.model.vocab_size": 64,
    "config.model.d_model": 16,
    "config.model.attention_heads": 2,
    "config.model.ffn_dim": 32,
    "config.model.layers": 1,
    "config.model.encoder_layers": 1,
    "config.model.decoder_layers": 1,
    "config.model.max_tokens": 64,
    "config.model.reversed_positions": True,
    "config.model.init_std": 0.1,
    "config.model.dropout": 0.1,
    "config.model.attention_dropout": 0.1,
    "config.model.user_dropout": 0.5,
    "config.evaluate.users": 40,
    "config.evaluate.validation_users": 40,
    **{
        f"config.{phase}.{key}": value
        for phase in ("pretrain", "finetune")
        for key, value in {
            "epochs": 60,
            "batch_size": 32,
            "learning_rate": 5e-3,
            "clip_norm": 1.0,
            "validate_every_epochs": 0,
        }.items()
    },
}
KEPT = ("run.json", "config.json", "model.json", "fingerprints.json", "jax_settings.json")
KEPT += ("results.json", "metrics.jsonl", "identifiers", "checkpoints", "predictions")


def test_there_is_a_run_of_every_family_in_this_format() -> None:
    assert {path.name for path in RUNS.iterdir()} == set(FAMILIES)
    for family in FAMILIES:
        assert json.loads((RUNS / family / "run.json").read_text())["format"] == FORMAT
        assert json.loads((RUNS / family / "config.json").read_text())["model"]["family"] == family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stored_run_ranks_as_it_did(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / family
    shutil.copytree(RUNS / family, run)
    assert main(["main", "--mode=evaluate", f"--workdir={run}"]) == 0
    expected = json.loads((run / "results.json").read_text())["metrics"]
    assert 0.2 < expected["NDCG@10"] < 1  # it has learned something to forget
    assert f"{expected['NDCG@10']:.5f}" in capsys.readouterr().out
    stored, found = (
        pq.read_table(run / "predictions" / name).to_pydict()
        for name in ("test.parquet", "evaluate_test.parquet")
    )
    assert found["user"] == stored["user"]
    assert found["items"] == stored["items"]
    np.testing.assert_allclose(found["scores"], stored["scores"], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stored_run_recommends_as_it_did(family: str) -> None:
    """From Python, for the history of a test user."""
    recommender = Recommender.load(RUNS / family)
    line = pq.read_table(RUNS / family / "predictions" / "test.parquet").to_pylist()[7]
    history = history_of(line["user"])
    (found,) = recommender.recommend([(line["user"], history)])
    assert [one.item for one in found] == line["items"]


def history_of(user: int) -> list[int]:
    sequences = load_sequences(read_config(RUNS / FAMILIES[0]).data)
    row = sequences.user_ids.tolist().index(user)
    return sequences.item_ids[sequences.of(row)].tolist()[:-1]


def config_of(family: str) -> RunConfig:
    """A small run of a family on synthetic data, some seconds long."""

    def changed(values: dict[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: changed(value, f"{prefix}.{key}")
            if isinstance(value, dict)
            else CHANGES.get(f"{prefix}.{key}", value)
            for key, value in values.items()
        }

    return config_from_dict(changed(default_config(family).to_dict(), "config"))


def write(family: str) -> None:
    """Train the run of a family and keep what later code must read."""
    run = RUNS / family
    shutil.rmtree(run, ignore_errors=True)
    train(config_of(family), RunFolder(run), report_run)
    for path in run.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    best = json.loads((run / "results.json").read_text())["counts"]["best_step"]
    for checkpoint in (run / "checkpoints").iterdir():
        if checkpoint.name != str(best):
            shutil.rmtree(checkpoint)


if __name__ == "__main__":
    for family in sys.argv[1:] or FAMILIES:
        write(family)
