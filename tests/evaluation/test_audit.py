"""The audit command on named, synthetic and file datasets, with and without BART's tokenizer."""

import re
import time
from pathlib import Path

import pytest
from repository import ROOT

from genrec_jax.main import main

SYNTHETIC = [
    f"--config={ROOT / 'configs' / 'quickstart.py'}",
    "--config.data.synthetic_users=80",
    "--config.data.synthetic_items=40",
    "--config.model.vocab_size=64",
]


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert main(["main", "--mode=audit", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def row(lines: list[str], name: str) -> list[str]:
    return next(line for line in lines if line.strip().startswith(name)).split()


def test_beauty_takes_less_than_a_minute(
    data_dir: Path, bart_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.process_time()  # seconds of this process alone, on a busy machine too
    lines = printed(capsys, f"--config={ROOT / 'configs' / 'beauty.py'}")
    assert time.process_time() - started < 60
    assert lines[0] == "beauty, published numbers, tokenizer facebook/bart-base"
    assert row(lines, "users") == ["users", "22,363"]
    assert row(lines, "already in the history")[-1] == "0.00%"
    assert row(lines, "largest number of the history + 1")[-1] == "4.41%"
    assert lines[-1].startswith("LEAK: the published numbers of beauty carry information about")


def test_a_synthetic_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *SYNTHETIC)
    assert lines[0] == "synthetic, random numbers, tokenizer trained on the identifiers"
    assert lines[-1].startswith("No evidence of leakage: the random numbers of synthetic")
    assert any("too few test items" in line for line in lines)
    assert any(line.startswith("own history, newest first") for line in lines)


def test_baselines_exclude_the_history_if_the_config_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(capsys, *SYNTHETIC, "--config.evaluate.exclude_history=True")
    assert any(re.match(r"test, \d+ users, history items excluded ", line) for line in lines)
    assert not any(line.startswith("own history") for line in lines)
    assert lines[-1].startswith("No evidence of leakage")


def test_a_file_without_a_local_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is numbered by first appearance over whole sequences, as the published files are."""
    from test_leak import leaky_dataset

    sequences = leaky_dataset(150, 300)
    path = tmp_path / "mine.txt"
    path.write_text(
        "\n".join(
            f"{user + 1} " + " ".join(str(i) for i in sequences.item_ids[sequences.of(user)])
            for user in range(sequences.n_users)
        )
    )
    monkeypatch.delenv("GENREC_BART_DIR", raising=False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    file = ["--config.data.name=file", f"--config.data.file={path}", "--config.indexing=published"]
    arguments = [*SYNTHETIC, *file, "--config.model.pretrained=facebook/bart-base"]
    lines = printed(capsys, *arguments)
    assert lines[0].endswith("since facebook/bart-base is not on this machine")
    assert lines[-1].startswith("LEAK: the published numbers of mine")
    lines = printed(capsys, *arguments, "--config.indexing=random", "--config.indexing_seed=3")
    assert lines[-1].startswith("No evidence of leakage: the random numbers of mine")


def test_invalid_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def fails(*arguments: object) -> str:
        assert main(["main", "--mode=audit", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "--step: no such flag; it is a flag of evaluate" in fails(*SYNTHETIC, "--step=3")
    assert "found none, expected --config=" in fails()
    assert "expected an existing folder" in fails(
        *SYNTHETIC, f"--config.model.pretrained={tmp_path / 'none'}"
    )
    assert "found no run.json" in fails(f"--workdir={tmp_path / 'none'}")
