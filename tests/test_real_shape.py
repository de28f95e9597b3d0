"""The paper's configs on the real data with a BART-base-shaped checkpoint made on the spot.

Slow: run with `launch/test.sh -m slow`; needs GENREC_DATA_DIR and GENREC_BART_DIR.
"""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from repository import ROOT
from transformers import BartConfig, BartForConditionalGeneration

from genrec_jax.main import main

USERS = 64
SHORT = [
    "--config.pretrain.max_steps=3",
    "--config.finetune.max_steps=3",
    f"--config.evaluate.users={USERS}",
    f"--config.evaluate.validation_users={USERS}",
    "--config.log_every_steps=1",
    "--config.data.buckets=1",
    "--config.model.max_tokens=64",
]


@pytest.fixture(scope="module")
def checkpoint(bart_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of BART-base's shape beside BART's own tokenizer."""
    folder = tmp_path_factory.mktemp("bart-base")
    torch.manual_seed(0)
    BartForConditionalGeneration(BartConfig.from_pretrained(bart_dir)).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(bart_dir / name, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beauty", "sports", "yelp"])
def test_every_phase_and_mode(
    name: str,
    checkpoint: Path,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = [
        "main",
        f"--config={ROOT / 'configs' / name}.py",
        f"--config.model.pretrained={checkpoint}",
        f"--config.data.dir={data_dir}",
        f"--workdir={tmp_path}",
        *SHORT,
    ]
    assert main([*config, "--mode=train"]) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["counts"]["users"] == USERS
    assert results["counts"]["empty_places"] == 0
    table = printed[printed.rindex(f"{name}, test, {USERS} users") :]
    assert main(["main", "--mode=evaluate", f"--workdir={tmp_path}"]) == 0
    assert table.strip() in capsys.readouterr().out

    histories = tmp_path / "histories.txt"
    histories.write_text("22 1 2 3\n23 4\n")
    arguments = ["main", "--mode=recommend", f"--workdir={tmp_path}", f"--histories={histories}"]
    assert main(arguments) == 0
    lists = pq.read_table(tmp_path / "predictions" / "recommendations.parquet")
    for line in lists.to_pylist():
        assert len(set(line["items"])) == 20
