"""Runs that leave the paper, from the command line: they train, come back, say what is wrong."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from test_coded_run import SMALL, command

from genrec_jax.cli.export import main as export
from genrec_jax.identifiers.item_vectors import collaborative_vectors
from genrec_jax.models.code_genrec.family import FAMILY as CODE_GENREC
from genrec_jax.models.contract import RANKING_OBJECTIVE
from genrec_jax.runs.config import config_from_dict, default_config
from genrec_jax.runs.dataset import load_sequences
from genrec_jax.runs.identifiers import build_catalogue
from genrec_jax.serving.recommender import Recommender
from genrec_jax.training.phase import finetuning_objective, last_objective

CONFIG = f"--config={ROOT / 'configs' / 'quickstart.py'}"
CODES, SASREC = f"{CONFIG}:codes", f"{CONFIG}:sasrec"
SMALL_SASREC = [flag for flag in SMALL if "vocab_size" not in flag and "pretrain" not in flag]
PLAIN = ["--config.model.low_pass=0", "--config.model.temperature=0"]
PLAIN += ["--config.model.item_init=random", "--config.model.reversed_positions=False"]
EVERY = [*PLAIN, "--config.model.encoder_prior=state", "--config.finetune.targets=all_positions"]


def test_a_run_that_scores_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pretrained at a mask, finetuned at every item; read back as it was trained."""
    run = tmp_path / "run"
    pretrained = ["--config.pretrain.epochs=1", "--config.keep_checkpoints=3"]
    assert command(CODES, *SMALL, *EVERY, *pretrained, f"--workdir={run}") == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} >= {"pretrain", "finetune", "validation"}
    shape = json.loads((run / "model.json").read_text())
    assert shape["encoder_prior"] == "state"
    trained = json.loads((run / "results.json").read_text())["metrics"]
    capsys.readouterr()
    assert command("--mode=evaluate", f"--workdir={run}") == 0
    assert f"{trained['NDCG@10']:.5f}" in capsys.readouterr().out
    # A checkpoint of pretraining is read at a mask, as pretraining's own validation did.
    first = next(line for line in lines if line["phase"] == "validation")
    asked = ["--mode=evaluate", "--split=validation", f"--step={first['step']}"]
    assert command(*asked, f"--workdir={run}") == 0
    row = next(
        one for one in capsys.readouterr().out.splitlines() if one.startswith("GenRec over codes")
    )
    metrics = ("HR@1", "HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20")
    assert row.split()[3:] == [f"{first[name]:.5f}" for name in metrics]
    assert export(["export", f"--workdir={run}", f"--output={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_sasrec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without tokenizer, trie and users it trains, evaluates and recommends; no export."""
    run = tmp_path / "run"
    assert command(SASREC, *SMALL_SASREC, f"--workdir={run}") == 0
    assert "users" not in json.loads((run / "model.json").read_text())
    assert json.loads((run / "results.json").read_text())["counts"]["empty_places"] == 0
    assert not (run / "identifiers" / "tokenizer.json").exists()
    assert "Leakage audit" not in (run / "report.html").read_text()
    capsys.readouterr()
    assert command(CODES, *SMALL, f"--workdir={run}") == 2
    expected = "found a run of the model family sasrec, expected code_genrec"
    assert expected in capsys.readouterr().err
    assert command("--mode=evaluate", f"--workdir={run}") == 0
    trained = json.loads((run / "results.json").read_text())["metrics"]
    printed = capsys.readouterr().out
    assert f"{trained['NDCG@10']:.5f}" in printed
    assert "\nSASRec " in printed
    (best, *others), nobody = Recommender.load(run).recommend([(1, [3, 5]), (None, [])])
    assert len({one.item for one in (best, *others)}) == len(nobody) == 20
    assert export(["export", f"--workdir={run}", f"--output={tmp_path / 'out'}"]) == 2
    assert "expected a run of the family genrec" in capsys.readouterr().err


UNSEEN = ["--config.model.encoder_prior=new_items", "--config.evaluate.exclude_history=True"]


def test_answers_that_were_not_seen(tmp_path: Path) -> None:
    """Learned and ranked on a log where nothing comes again, from collaborative vectors."""
    log, run = tmp_path / "log.txt", tmp_path / "run"
    rng = np.random.default_rng(0)
    rows = [rng.choice(np.arange(1, 41), 4 + user % 5, replace=False) for user in range(60)]
    lines = [f"{user} {' '.join(map(str, row))}" for user, row in enumerate(rows, start=1)]
    log.write_text("\n".join(lines) + "\n")
    data = ["--config.data.name=file", f"--config.data.file={log}"]
    assert command(CODES, *SMALL, *UNSEEN, *data, f"--workdir={run}") == 0
    assert json.loads((run / "results.json").read_text())["counts"]["empty_places"] == 0
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] < 5 for line in losses if line["phase"] == "finetune")


def test_a_log_where_items_come_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(CODES, *SMALL, *UNSEEN, f"--workdir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert "config.model.encoder_prior: found 'new_items' with synthetic, where " in error
    assert error.count("\n") == 1


def test_a_log_with_nothing_to_learn_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "short.txt"
    log.write_text("".join(f"{user} {user} {user + 1} {user + 2}\n" for user in range(1, 41)))
    data = ["--config.data.name=file", f"--config.data.file={log}"]
    assert command(SASREC, *SMALL_SASREC, *data, f"--workdir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert "short: found no user with more than 3 items, expected users with 4 for" in error
    assert error.count("\n") == 1


def test_item_vectors_start_where_items_are_together() -> None:
    """As long as random ones; an item of which nothing is known keeps its random row."""
    values = default_config("code_genrec").to_dict()
    values["model"] |= {"d_model": 16, "attention_heads": 2}
    config = config_from_dict(values)
    sequences = load_sequences(config.data)
    vectors = collaborative_vectors(sequences, 8, 5, 0)
    vectors[3] = 0.0
    catalogue = build_catalogue(config, sequences, None)
    shape = CODE_GENREC.make_shape(config, catalogue, None, 0)

    def start(item_init: str) -> np.ndarray:
        model = dataclasses.replace(config.model, item_init=item_init)
        changed = dataclasses.replace(config, model=model)
        started = CODE_GENREC.start_params(changed, shape, catalogue, None, lambda *_: vectors)
        return np.asarray(started["item_embedding"])

    random, found = start("random"), start("collaborative")
    np.testing.assert_array_equal(found[:, 8:], random[:, 8:])
    np.testing.assert_array_equal(found[3], random[3])
    known = np.arange(len(vectors)) != 3
    length = np.linalg.norm(found[known, :8], axis=1)
    np.testing.assert_allclose(length, 0.02 * np.sqrt(8), rtol=1e-5)
    np.testing.assert_allclose(found[known, :8] / length[:, None], vectors[known], atol=1e-6)


@pytest.mark.parametrize(
    ("family", "targets", "objective"),
    [
        ("genrec", None, "next_item"),
        ("code_genrec", "last_only", "next_item"),
        ("code_genrec", "prefix_augmentation", "following_item"),
        ("code_genrec", "all_positions", "every_item"),
        ("sasrec", "prefix_augmentation", "following_item"),
        ("sasrec", "all_positions", "every_item"),
    ],
)
def test_ranking_asks_as_finetuning_asked(family: str, targets: str | None, objective: str) -> None:
    """In place of `every_item`, which asks at all positions, ranking asks at the last."""
    config = default_config(family)
    changes = {} if targets is None else {"targets": targets}
    config = dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, **changes))
    assert finetuning_objective(config) == last_objective(config) == objective
    ranked = RANKING_OBJECTIVE[finetuning_objective(config)]
    assert ranked == ("next_item" if objective == "next_item" else "following_item")


@pytest.mark.parametrize(
    ("config", "changes", "expected"),
    [
        (CODES, ["evaluate.search=free"], "config.evaluate.search: found 'free', expected one of"),
        (SASREC, ["evaluate.search=constrained"], "config.evaluate.search: is not a key of sasrec"),
        (CODES, ["model.encoder_prior=True"], "config.model.encoder_prior: found 'True', expec"),
        (
            CODES,
            ["model.encoder_prior=items"],
            "found 'items', expected 'copying', its current name",
        ),
        (
            CODES,
            ["model.encoder_prior=new_items"],
            "config.evaluate.exclude_history: found False with model.encoder_prior='new_items'",
        ),
        (CODES, ["model.item_init=x"], "config.model.item_init: found 'x', expected one of ran"),
        (
            CONFIG,
            ["finetune.targets=all_positions"],
            "config.finetune.targets: is not a key of genrec",
        ),
        (SASREC, ["finetune.targets=last_only"], "config.finetune.targets: found 'last_only', ex"),
        (
            SASREC,
            ["finetune.targets=every"],
            "found 'every', expected 'all_positions', its current name",
        ),
        (
            SASREC,
            ["finetune.targets=all_positions"],
            "config.model.reversed_positions: found True with finetune.targets=all_positions",
        ),
        (
            CODES,
            ["finetune.targets=all_positions"],
            "config.model.low_pass: found 0.5 with finetune.targets=all_positions",
        ),
        (
            CODES,
            ["finetune.targets=all_positions", "model.low_pass=0"],
            "config.model.encoder_prior: found 'copying' with finetune.targets=all_positions",
        ),
        (
            CODES,
            ["model.low_pass=1.0"],
            "config.model.low_pass: found 1.0, expected a number in [0, 1)",
        ),
        (
            CODES,
            ["model.encoder_prior=none"],
            "config.model.temperature: found 0.07 with model.encoder_prior='none'",
        ),
        (CODES, ["model.reversed_positions=x"], "config.model.reversed_positions=x: expected tr"),
        (CODES, ["model.pretrained=x"], "config.model.pretrained: is not a key of code_genrec"),
        (SASREC, ["model.user_dropout=.1"], "config.model.user_dropout: is not a key of sasrec"),
        (CODES, ["model_parallel=2"], "config.model_parallel: is not a key of code_genrec"),
        (SASREC, ["pretrain.epochs=1"], "config.pretrain.epochs: is not a key of sasrec"),
        (
            SASREC,
            ["indexing=title"],
            "config.indexing: is not a key of sasrec, the model family of this config, but of "
            "genrec and code_genrec",
        ),
        (CODES, ["evaluate.length_penalty=1"], "config.evaluate.length_penalty: is not a key of"),
        (
            CODES,
            ["evaluate.search=exhaustive", "evaluate.exact_users=5"],
            "config.evaluate.exact_users: found 5 with evaluate.search = exhaustive",
        ),
        (
            CODES,
            ["model.frequencies=300"],
            "config.model.frequencies: found 300, expected at most half of config.model.max_tokens",
        ),
        (
            CONFIG,
            ["model.family=sasrec"],
            "--config.model.family=sasrec: cannot be changed from 'genrec', expected a config file",
        ),
        (CONFIG, ["model.max_tokens=60"], "config.model.max_tokens: found 60, expected a multiple"),
        (SASREC, ["model.max_items=9"], "config.model.max_items: found 9, expected a multiple of"),
        (SASREC, ["model.attention_heads=3"], "config.model.attention_heads: found 3, expected a"),
    ],
)
def test_what_does_not_fit_together(
    config: str,
    changes: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [f"--config.{change}" for change in changes]
    assert command(config, *flags, f"--workdir={tmp_path / 'run'}") == 2
    errors = capsys.readouterr().err
    assert expected in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()
