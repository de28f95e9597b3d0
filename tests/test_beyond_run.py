"""Runs that leave the paper, from the command line: they train, come back, say what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from test_coded_run import SMALL, command

from genrec_jax.cli.export import main as export
from genrec_jax.core.errors import InputError
from genrec_jax.runs.config import Config
from genrec_jax.runs.dataset import load_sequences
from genrec_jax.runs.identifiers import build_catalogue
from genrec_jax.runs.model import model_shape, start_params, start_vectors
from genrec_jax.training.cloze import CAUSAL
from genrec_jax.training.phase import objective_of

CONFIG = f"--config={ROOT / 'configs' / 'quickstart.py'}"
TRIE = [
    "--config.indexing=collaborative",
    "--config.codes.dims=8",
    "--config.model.encoder_unit=item",
    "--config.model.head=trie",
    "--config.model.residual=vector",
    "--config.model.count_from=start",
    "--config.finetune.targets=every",
    "--config.evaluate.exclude_history=True",
]
ITEMS = "--config.model.encoder_unit=item"
SASREC = [
    "--config.model.encoder_unit=id",
    "--config.model.head=item",
    "--config.finetune.targets=prefixes",
    "--config.model.count_from=end",
    "--config.evaluate.search=exhaustive",
]


def test_a_run_that_scores_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pretrained at a mask, finetuned at every item; read back as it was trained."""
    run = tmp_path / "run"
    pretrained = ["--config.pretrain.epochs=1", "--config.keep_checkpoints=3"]
    assert command(CONFIG, *SMALL, *TRIE, *pretrained, f"--workdir={run}") == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} >= {"pretrain", "finetune", "validation"}
    shape = json.loads((run / "model.json").read_text())
    assert (shape["head"], shape["encoder_unit"], shape["residual"]) == ("trie", "item", "vector")
    trained = json.loads((run / "results.json").read_text())["metrics"]
    capsys.readouterr()
    assert command("--mode=evaluate", f"--workdir={run}") == 0
    assert f"{trained['NDCG@10']:.5f}" in capsys.readouterr().out
    # A checkpoint of pretraining is read at a mask, as pretraining's own validation did.
    first = next(line for line in lines if line["phase"] == "validation")
    asked = ["--mode=evaluate", "--split=validation", f"--step={first['step']}"]
    assert command(*asked, f"--workdir={run}") == 0
    row = next(one for one in capsys.readouterr().out.splitlines() if one.startswith("GenRec"))
    metrics = ("HR@1", "HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20")
    assert row.split()[1:] == [f"{first[name]:.5f}" for name in metrics]
    assert export(["export", f"--workdir={run}", f"--output={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_sasrec(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command(CONFIG, *SMALL, *SASREC, f"--workdir={run}") == 0
    assert json.loads((run / "model.json").read_text())["head"] == "item"
    assert json.loads((run / "results.json").read_text())["counts"]["empty_places"] == 0


TEMPERATURE = "--config.model.temperature=0.1"
UNSEEN = [*TRIE, "--config.finetune.targets=prefixes", "--config.model.residual=unseen"]


def test_answers_that_were_not_seen(tmp_path: Path) -> None:
    """Learned and ranked on a log where nothing comes again, from collaborative vectors."""
    log, run = tmp_path / "log.txt", tmp_path / "run"
    rng = np.random.default_rng(0)
    rows = [rng.choice(np.arange(1, 41), 4 + user % 5, replace=False) for user in range(60)]
    lines = [f"{user} {' '.join(map(str, row))}" for user, row in enumerate(rows, start=1)]
    log.write_text("\n".join(lines) + "\n")
    data = ["--config.data.name=file", f"--config.data.file={log}"]
    more = ["--config.model.item_vectors=collaborative", "--config.model.low_pass=0.5", TEMPERATURE]
    assert command(CONFIG, *SMALL, *UNSEEN, *data, *more, f"--workdir={run}") == 0
    assert json.loads((run / "results.json").read_text())["counts"]["empty_places"] == 0
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] < 5 for line in losses if line["phase"] == "finetune")


def test_a_log_where_items_come_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(CONFIG, *SMALL, *UNSEEN, f"--workdir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert "config.model.residual: found 'unseen' with synthetic, where " in error
    assert error.count("\n") == 1


def test_a_log_with_nothing_to_learn_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "short.txt"
    log.write_text("".join(f"{user} {user} {user + 1} {user + 2}\n" for user in range(1, 41)))
    data = ["--config.data.name=file", f"--config.data.file={log}"]
    assert command(CONFIG, *SMALL, *SASREC, *data, f"--workdir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert "found 'prefixes' with short, where no user has more than 3 items" in error
    assert error.count("\n") == 1


def test_item_vectors_start_where_items_stand_together() -> None:
    """As long as random ones; an item that is not told of keeps its random row."""
    values = Config().to_dict()
    values["data"]["name"] = "synthetic"
    values["model"] |= {"pretrained": "", "d_model": 16, "attention_heads": 2}
    values["codes"]["dims"] = 8
    assert start_vectors(Config.from_dict(values), load_sequences(Config().data)) is None
    values["model"]["item_vectors"] = "collaborative"
    config = Config.from_dict(values)
    sequences = load_sequences(config.data)
    vectors = start_vectors(config, sequences)
    assert vectors is not None
    vectors[3] = 0.0
    catalogue = build_catalogue(config, sequences, None)
    shape = model_shape(config.model, catalogue, None)
    random = start_params(shape, catalogue, None, 0)["item_embedding"]
    found = start_params(shape, catalogue, None, 0, vectors)["item_embedding"]
    np.testing.assert_array_equal(found[:, 8:], random[:, 8:])
    np.testing.assert_array_equal(found[3], random[3])
    told = np.arange(len(vectors)) != 3
    length = np.linalg.norm(found[told, :8], axis=1)
    np.testing.assert_allclose(length, 0.02 * np.sqrt(8), rtol=1e-5)
    np.testing.assert_allclose(found[told, :8] / length[:, None], vectors[told], atol=1e-6)


@pytest.mark.parametrize("targets", ["last", "prefixes", "every"])
@pytest.mark.parametrize(("unit", "head"), [("token", "vocabulary"), ("item", "trie")])
def test_what_finetuning_asks_is_what_is_asked_afterwards(
    unit: str, head: str, targets: str
) -> None:
    values = Config().to_dict()
    values["model"] |= {"pretrained": "", "encoder_unit": unit, "head": head}
    values["finetune"]["targets"] = targets
    if unit == "token" and targets == "every":
        with pytest.raises(InputError, match=r"config\.finetune\.targets"):
            Config.from_dict(values)
        return
    config = Config.from_dict(values)
    objective = objective_of(config)
    assert (objective in CAUSAL) == config.reads_causally
    by_name = {"last": "next_item", "prefixes": "following_item", "every": "every_item"}
    assert objective == ("next_item" if unit == "token" else by_name[targets])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["--config.model.head=trie", "--config.evaluate.search=free"], "evaluate.search: found"),
        (["--config.model.head=item"], "config.evaluate.search: found 'constrained' with model.h"),
        (["--config.model.residual=items"], "config.model.residual: found 'items' with model.hea"),
        (["--config.model.residual=True"], "config.model.residual: found 'True', expected one of"),
        (
            ["--config.model.head=trie", "--config.model.residual=items"],
            "config.model.residual: found 'items' with model.encoder_unit='token'",
        ),
        (
            ["--config.model.head=trie", "--config.model.residual=unseen", ITEMS],
            "config.evaluate.exclude_history: found False with model.residual='unseen'",
        ),
        (["--config.model.item_vectors=codes"], "config.model.item_vectors: found 'codes', expect"),
        (["--config.finetune.targets=every"], "config.finetune.targets: found 'every' with model"),
        (
            [*TRIE, "--config.model.count_from=end"],
            "config.model.count_from: found 'end' with finetune.targets='every'",
        ),
        (["--config.model.low_pass=0.5"], "config.model.low_pass: found 0.5 with model.encoder_u"),
        (["--config.model.low_pass=1.0"], "config.model.low_pass: found 1.0, expected a share fro"),
        (["--config.model.temperature=0.1"], "config.model.temperature: found 0.1 with model.head"),
        (["--config.model.count_from=0"], "config.model.count_from: found '0', expected one of st"),
        (["--config.model.head=leaf"], "config.model.head: found 'leaf', expected one of vocab"),
        (["--config.model.encoder_unit=word"], "config.model.encoder_unit: found 'word', expected"),
        (
            ["--config.model.head=trie", "--config.model.pretrained=facebook/bart-base"],
            "config.model.pretrained: found 'facebook/bart-base' with model.encoder_unit='token'",
        ),
        (["--config.model.head=trie", "--config.model_parallel=2"], "config.model_parallel: found"),
        (
            ["--config.model.head=trie", "--config.evaluate.length_penalty=1"],
            "config.evaluate.length_penalty: found 1.0 with model.head='trie'",
        ),
        (
            [ITEMS, "--config.model.low_pass=0.5", "--config.model.frequencies=300"],
            "config.model.frequencies: found 300, expected at most half of config.model.max_tokens",
        ),
    ],
)
def test_what_does_not_fit_together(
    changes: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(CONFIG, *changes, f"--workdir={tmp_path / 'run'}") == 2
    errors = capsys.readouterr().err
    assert told in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()
