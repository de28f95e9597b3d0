"""Runs that leave the paper, from the command line: they train, come back, say what is wrong."""

import json
from pathlib import Path

import pytest
from repository import ROOT
from test_coded_run import SMALL, command

from genrec_jax.config import Config
from genrec_jax.errors import InputError
from genrec_jax.model.convert import main as convert
from genrec_jax.phase import objective_of
from genrec_jax.training.cloze import CAUSAL

CONFIG = f"--config={ROOT / 'configs' / 'quickstart.py'}"
TRIE = [
    "--config.indexing=collaborative",
    "--config.codes.dims=8",
    "--config.model.encoder_unit=item",
    "--config.model.head=trie",
    "--config.model.residual=vector",
    "--config.finetune.targets=every",
    "--config.evaluate.exclude_history=True",
]
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
    pretrained = ["--config.pretrain.epochs=1", "--config.pretrain.max_steps=2"]
    assert command(CONFIG, *SMALL, *TRIE, *pretrained, f"--workdir={run}") == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} >= {"pretrain", "finetune", "validation"}
    shape = json.loads((run / "model.json").read_text())
    assert (shape["head"], shape["encoder_unit"], shape["residual"]) == ("trie", "item", "vector")
    trained = json.loads((run / "results.json").read_text())["metrics"]
    capsys.readouterr()
    assert command("--mode=evaluate", f"--workdir={run}") == 0
    assert f"{trained['NDCG@10']:.5f}" in capsys.readouterr().out
    assert convert(["convert", f"--workdir={run}", f"--output={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_sasrec(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command(CONFIG, *SMALL, *SASREC, f"--workdir={run}") == 0
    assert json.loads((run / "model.json").read_text())["head"] == "item"
    assert json.loads((run / "results.json").read_text())["counts"]["empty_places"] == 0


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
        (["--config.finetune.targets=every"], "config.finetune.targets: found 'every' with model"),
        (["--config.model.count_from=end"], "config.model.count_from: found 'end' with model.enc"),
        (["--config.model.count_from=0"], "config.model.count_from: found '0', expected one of st"),
        (["--config.model.head=leaf"], "config.model.head: found 'leaf', expected one of vocab"),
        (["--config.model.encoder_unit=word"], "config.model.encoder_unit: found 'word', expected"),
        (
            ["--config.model.head=trie", "--config.model.pretrained=facebook/bart-base"],
            "config.model.pretrained: found 'facebook/bart-base' with model.encoder_unit='token'",
        ),
        (["--config.model.head=trie", "--config.model_parallel=2"], "config.model_parallel: found"),
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
