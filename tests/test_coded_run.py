"""Codes from the command line: audited, trained with, read back; refused where there is no text."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from identifiers.test_item_vectors import planted
from repository import ROOT
from titled import write_titled

from genrec_jax.cli.export import main as export
from genrec_jax.data.sequences import UserSequences
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.item_vectors import collaborative_vectors
from genrec_jax.main import main

CONFIG = f"--config={ROOT / 'configs' / 'quickstart.py'}"
SMALL = [
    "--config.data.synthetic_users=60",
    "--config.data.synthetic_items=40",
    "--config.model.d_model=16",
    "--config.model.ffn_dim=32",
    "--config.model.vocab_size=64",
    "--config.pretrain.epochs=0",
    "--config.finetune.max_steps=2",
    "--config.evaluate.users=20",
    "--config.evaluate.validation_users=20",
    "--config.evaluate.batch_size=32",
]


def command(*arguments: object) -> int:
    return main(["main", *map(str, arguments)])


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert command("--mode=audit", CONFIG, *arguments) == 0
    return capsys.readouterr().out


def as_file(sequences: UserSequences, path: Path) -> list[str]:
    path.write_text(
        "".join(
            f"{user} {' '.join(str(item) for item in sequences.item_ids[sequences.of(row)])}\n"
            for row, user in enumerate(sequences.user_ids)
        )
    )
    return ["--config.data.name=file", f"--config.data.file={path}"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = write_titled(tmp_path_factory.mktemp("data") / "titled")
    return ["--config.data.name=file", f"--config.data.file={folder}"]


def test_the_audit_calls_codes_clean(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Where users go on as they began, so that what they took before tells what they take next."""
    sequences = planted()
    items = sequences.items.copy()
    for hidden in (1, 2):
        ends = sequences.offsets[1:601]
        items[ends - hidden] = items[ends - hidden - 3]
    faithful = UserSequences(
        "faithful", items, sequences.offsets, sequences.user_ids, sequences.item_ids
    )
    data = as_file(faithful, tmp_path / "faithful.txt")
    text = printed(capsys, *data, "--config.indexing=collaborative", "--config.codes.dims=16")
    assert "64 items have collaborative codes, 0 of them random" in text
    assert "faithful, collaborative codes, tokenizer trained on the identifiers" in text
    last = text.strip().splitlines()[-1]
    assert last.startswith(
        "No evidence of leakage: the collaborative codes of faithful carry no more"
    )
    text = printed(capsys, *data, "--config.indexing=random_codes")
    assert (
        text.strip()
        .splitlines()[-1]
        .startswith("No evidence of leakage: the random codes of faithful")
    )


def test_the_audit_finds_codes_that_know_the_test_items(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peeking(sequences: UserSequences, dims: int, window: int, seed: int) -> np.ndarray:
        """Every user goes on for two items more, so that none is held out."""
        lists = np.split(sequences.items, sequences.offsets[1:-1])
        items = np.concatenate([np.concatenate([one, one[:2]]) for one in lists])
        offsets = sequences.offsets + 2 * np.arange(len(sequences.offsets))
        whole = UserSequences("whole", items, offsets, sequences.user_ids, sequences.item_ids)
        return collaborative_vectors(whole, dims, window, seed)

    monkeypatch.setattr("genrec_jax.runs.identifiers.collaborative_vectors", peeking)
    data = as_file(planted(), tmp_path / "planted.txt")
    text = printed(capsys, *data, "--config.indexing=collaborative", "--config.codes.dims=16")
    last = text.strip().splitlines()[-1]
    assert last.startswith("LEAK: the collaborative codes of planted depend on validation or test")


@pytest.mark.slow
def test_the_audit_on_beauty(
    data_dir: Path, bart_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = f"--config={ROOT / 'configs' / 'beauty.py'}"
    assert command("--mode=audit", config, "--config.indexing=collaborative") == 0
    text = capsys.readouterr().out
    assert "beauty, collaborative codes, tokenizer facebook/bart-base" in text
    last = text.strip().splitlines()[-1]
    assert last.startswith(
        "No evidence of leakage: the collaborative codes of beauty carry more information"
    )
    assert "all codes stay the same" in last
    assert "no information about the 33 items" in last


@pytest.mark.parametrize("kind", ["semantic", "combined"])
def test_codes_from_texts(
    kind: str, prepared: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, *prepared, f"--config.indexing={kind}")
    assert f"200 items have {kind} codes" in text
    assert "against numbers from training interactions" not in text  # texts describe cold items
    assert "No evidence of leakage" in text.strip().splitlines()[-1]


@pytest.mark.parametrize("kind", ["semantic", "combined"])
def test_texts_that_are_not_there(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = f"--workdir={tmp_path / 'run'}"
    assert command(CONFIG, workdir, f"--config.indexing={kind}") == 2
    error = capsys.readouterr().err
    assert f"config.indexing: found '{kind}', but synthetic has neither titles nor" in error
    assert not (tmp_path / "run").exists()


def test_the_attributes_of_a_named_dataset(data_dir: Path) -> None:
    from genrec_jax.models.genrec.config import Config
    from genrec_jax.models.run_config import CodesConfig, DataConfig
    from genrec_jax.runs.dataset import load_sequences
    from genrec_jax.runs.identifiers import code_vectors

    config = Config(data=DataConfig(name="beauty"), indexing="semantic", codes=CodesConfig(dims=4))
    vectors = code_vectors(config, load_sequences(config.data), None)
    assert vectors is not None
    assert vectors.shape == (12_101, 4)
    assert vectors.any(axis=1).mean() > 0.99


def test_a_run_with_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    coded = ["--config.indexing=collaborative", "--config.codes.dims=8"]
    assert command(CONFIG, *SMALL, *coded, f"--workdir={run}") == 0
    result = json.loads((run / "results.json").read_text())
    assert result["indexing"] == "collaborative"
    assert result["counts"]["empty_places"] == 0
    page = (run / "report.html").read_text()
    assert "40 items, collaborative codes" in page
    assert "No evidence of leakage: the collaborative codes of synthetic" in page
    catalogue = Catalogue.load(run / "identifiers")
    assert catalogue.indexing.codes is not None
    for line in pq.read_table(run / "predictions" / "test.parquet").to_pylist():
        assert len(set(line["items"])) == 20
    capsys.readouterr()
    assert export(["export", f"--workdir={run}", f"--output={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert "config.indexing: found 'collaborative' in " in error
    assert error.count("\n") == 1
