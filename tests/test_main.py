"""The command line: a whole run through every mode, and each error by its text and exit code."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from repository import ROOT
from stored import change_config, sign

from genrec_jax.cli import ensemble
from genrec_jax.core.errors import InputError
from genrec_jax.data.synthetic import transition_matrix
from genrec_jax.evaluation import ensemble_run
from genrec_jax.main import main
from genrec_jax.runs.config import check_variant
from genrec_jax.runs.dataset import load_sequences, synthetic_spec
from genrec_jax.runs.run_folder import RunFolder

SMALL_MODEL = [
    "--config.data.synthetic_users=80",
    "--config.data.synthetic_items=40",
    "--config.model.d_model=16",
    "--config.model.ffn_dim=32",
    "--config.model.vocab_size=64",
    "--config.pretrain.epochs=2",
    "--config.pretrain.validate_every_epochs=2",
    "--config.finetune.epochs=3",
    "--config.finetune.max_steps=5",
    "--config.finetune.validate_every_steps=2",
    "--config.evaluate.users=0",
    "--config.evaluate.batch_size=64",
    "--config.log_every_steps=2",
]
CONFIG = f"--config={ROOT / 'configs' / 'quickstart.py'}"


def command(*arguments: object) -> int:
    return main(["main", *map(str, arguments)])


def table_of(text: str) -> list[str]:
    """The lines of the result table, which starts with the dataset's name and the split."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if re.match(r"synthetic, test, \d+ users", line))
    return lines[start : start + 6]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the synthetic dataset."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert command(CONFIG, f"--workdir={folder}", *SMALL_MODEL) == 0
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_a_run_leaves_what_evaluation_and_serving_need(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("run.json", "config.json", "model.json", "identifiers", "checkpoints", "metrics.jsonl"),
        *("tensorboard", "results.json", "predictions", "log.txt", "report.html"),
        *("fingerprints.json", "jax_settings.json"),
    }
    results = json.loads((run / "results.json").read_text())
    assert set(results["metrics"]) == {
        *("HR@1", "HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20"),
    }
    assert results["counts"]["users"] == 80
    assert results["counts"]["steps"] == 2 * 2 + 5
    assert results["indexing"] == "random"
    assert results["references"]["oracle"]["HR@10"] > results["references"]["popularity"]["HR@10"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["phase"] == "validation"] == [4, 6, 8, 9]
    best = max(
        (x for x in lines if x["phase"] == "validation" and x["step"] > 4),
        key=lambda line: line["NDCG@10"],
    )
    assert results["counts"]["best_step"] == best["step"]


def test_predictions_hold_twenty_different_items_of_the_dataset(run: Path) -> None:
    lines = pq.read_table(run / "predictions" / "test.parquet").to_pylist()
    assert len(lines) == 80
    hits = 0
    for line in lines:
        assert len(set(line["items"])) == len(line["scores"]) == 20
        assert set(line["items"]) <= set(range(1, 41))
        assert line["scores"] == sorted(line["scores"], reverse=True)
        hits += line["target"] in line["items"][:10]
    assert json.loads((run / "results.json").read_text())["metrics"]["HR@10"] == hits / 80


def test_evaluate_in_a_new_process_prints_what_training_printed(run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "genrec_jax.main", "--mode=evaluate", f"--workdir={run}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    printed = table_of(done.stdout)
    log = re.sub(r"(?m)^\d{4}-\d\d-\d\d \S+ ", "", (run / "log.txt").read_text())
    assert printed == table_of(log)
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    model = next(line for line in printed if line.startswith("GenRec"))
    assert model.split()[1:] == [f"{value:.5f}" for value in metrics.values()]


def test_a_finished_run_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    assert command(CONFIG, f"--workdir={run}", *SMALL_MODEL) == 0
    assert "contains a finished run" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_run_cut_short_goes_on_to_the_same_result(run: Path, tmp_path: Path) -> None:
    whole = json.loads((run / "results.json").read_text())
    stopped = tmp_path / "stopped"
    # A run whose process dies in the middle of finetuning, just after its second checkpoint.
    script = (
        "import os, sys\n"
        "from genrec_jax.runs import checkpoint\n"
        "save = checkpoint.Checkpoints.save\n"
        "def save_and_die(self, step, *rest):\n"
        "    save(self, step, *rest)\n"
        "    self.wait()\n"
        "    if step == 6: os._exit(9)\n"
        "checkpoint.Checkpoints.save = save_and_die\n"
        "from genrec_jax.main import main\n"
        "sys.exit(main(sys.argv))\n"
    )
    arguments = [CONFIG, f"--workdir={stopped}", *SMALL_MODEL]
    died = subprocess.run([sys.executable, "-c", script, *arguments], check=False, cwd=ROOT)
    assert died.returncode == 9
    assert not (stopped / "results.json").exists()
    assert command(*arguments) == 0
    again = json.loads((stopped / "results.json").read_text())
    assert again["metrics"] == whole["metrics"]
    assert again["counts"] == whole["counts"]

    def figures(folder: Path) -> list[tuple[int, str, float]]:
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [(x["step"], x["phase"], x.get("loss", x.get("NDCG@10"))) for x in lines]

    assert figures(stopped) == figures(run)


def test_recommend_for_all_users_and_for_a_file(run: Path, tmp_path: Path) -> None:
    assert command("--mode=recommend", f"--workdir={run}") == 0
    table = pq.read_table(run / "predictions" / "recommendations.parquet")
    assert table["user"].to_pylist() == list(range(1, 81))
    histories = tmp_path / "histories.txt"
    histories.write_text("7 1 2 3\n3 40\n7 5\n9\n")
    output = tmp_path / "new" / "lists.jsonl"
    assert (
        command(
            "--mode=recommend", f"--workdir={run}", f"--histories={histories}", f"--output={output}"
        )
        == 0
    )
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["user"] for line in found] == [7, 3, 7, 9]
    assert all(len(set(line["items"])) == 20 for line in found)
    assert found[0]["items"] != found[2]["items"]


def test_evaluate_another_split_step_and_search(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--mode=evaluate", f"--workdir={run}", "--split=validation", "--step=9") == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = lines[-1]["NDCG@10"]
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("GenRec"))
    assert row.split()[6] == f"{expected:.5f}"
    free = ["--config.evaluate.search=free"]
    assert command("--mode=evaluate", f"--workdir={run}", CONFIG, *SMALL_MODEL, *free) == 0
    assert "free search" in capsys.readouterr().out
    # The run's own config is there without naming its file, and its evaluate keys are flags.
    exact = ["--config.evaluate.search=exhaustive", "--config.evaluate.exclude_history=True"]
    assert command("--mode=evaluate", f"--workdir={run}", *exact) == 0
    printed = capsys.readouterr().out
    assert "exhaustive search, history items excluded" in printed
    # The baselines beside it leave them out too.
    assert "own history" not in printed
    figures = {}
    for name in ("popularity", "oracle"):
        row = next(line for line in printed.splitlines() if line.startswith(name))
        figures[name] = float(row.split()[3])
    assert figures == pytest.approx(hits_without_the_history(run, k=10), abs=5e-6)
    assert "another config" in fails(
        capsys, "--mode=evaluate", f"--workdir={run}", "--config.seed=9"
    )


def hits_without_the_history(run: Path, k: int) -> dict[str, float]:
    """HR@k of popularity and of the oracle on a run's test, one user at a time."""
    config = RunFolder(run).read_config()
    sequences, matrix = load_sequences(config.data), transition_matrix(synthetic_spec(config.data))
    rows = [sequences.of(user).tolist() for user in range(sequences.n_users)]
    counts = Counter(item for row in rows for item in row[:-2])
    hits = {"popularity": 0, "oracle": 0}
    for *history, target in rows:
        new = [item for item in range(sequences.n_items) if item not in history]
        hits["popularity"] += target in sorted(new, key=lambda item: (-counts[item], item))[:k]
        likely = sorted(new, key=lambda item: (-matrix[history[-1], item], item))
        hits["oracle"] += target in likely[:k]
    return {name: count / len(rows) for name, count in hits.items()}


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no space left")


def test_mixing_with_the_knn(
    run: Path,
    copy: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exclude = "--config.evaluate.exclude_history=True"
    assert ensemble.main(["ensemble", f"--workdir={copy}", exclude]) == 0
    found = json.loads((copy / "results_ensemble.json").read_text())
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("GenRec + kNN"))
    assert row.split()[8] == f"{found['metrics']['NDCG@10']:.5f}"
    best = max(found["validation"]["curve"], key=lambda one: one["NDCG@10"])
    assert {key: best[key] for key in found["ensemble"]} == found["ensemble"]
    assert found["validation"]["metrics"]["NDCG@10"] == best["NDCG@10"]
    knn = "item-transition kNN"
    assert list(found["references"]) == ["GenRec", "popularity", "largest number + 1, …", knn]
    hits = hits_without_the_history(run, k=10)["popularity"]
    assert found["references"]["popularity"]["HR@10"] == pytest.approx(hits)
    lines = pq.read_table(copy / "predictions" / "ensemble_test.parquet").to_pylist()
    hits = sum(line["target"] in line["items"][:10] for line in lines)
    assert hits / len(lines) == pytest.approx(found["metrics"]["HR@10"])
    # The model's own row is exact ranking, as the exhaustive search has it.
    exact = ["--config.evaluate.search=exhaustive", exclude]
    assert command("--mode=evaluate", f"--workdir={copy}", *exact) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("GenRec"))
    assert row.split()[6] == f"{found['references']['GenRec']['NDCG@10']:.5f}"
    row = next(line for line in printed.splitlines() if line.startswith(knn))
    assert row.split()[7] == f"{found['references'][knn]['NDCG@10']:.5f}"

    assert ensemble.main(["ensemble", f"--workdir={copy}", "--config.seed=1"]) == 2
    assert "expected --config.evaluate.KEY=VALUE" in capsys.readouterr().err
    assert ensemble.main(["ensemble", f"--workdir={tmp_path / 'none'}"]) == 2
    assert "expected a run's folder" in capsys.readouterr().err
    change_config(copy, finetune__include_validation_item=True)
    assert ensemble.main(["ensemble", f"--workdir={copy}"]) == 2
    assert (
        "config.finetune.include_validation_item: found True, so the run was"
        in capsys.readouterr().err
    )
    change_config(copy, finetune__include_validation_item=False)
    with monkeypatch.context() as patch:
        patch.setattr(ensemble_run, "write_rankings", full_disk)
        assert ensemble.main(["ensemble", f"--workdir={copy}", exclude]) == 74
    assert "error: disk error: No space left on device" in capsys.readouterr().err
    assert not (copy / "results_ensemble.json").exists()  # of lists that are not there
    (copy / "results.json").unlink()
    assert ensemble.main(["ensemble", f"--workdir={copy}"]) == 2
    assert "found no finished run" in capsys.readouterr().err


def test_a_mix_that_another_run_chooses(
    run: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The chooser's own mix has the same curve on its test, if that may choose."""
    chooser = tmp_path / "chooser"
    changes = ["--config.data.drop_last=1", "--config.seed=1"]
    assert command(CONFIG, *SMALL_MODEL, *changes, f"--workdir={chooser}") == 0
    users = "--config.evaluate.validation_users=0"
    capsys.readouterr()
    assert ensemble.main(["ensemble", f"--workdir={copy}", f"--chooser={chooser}", users]) == 0
    assert (
        f"weight-tuning run {chooser} by NDCG@10 on 80 validation users" in capsys.readouterr().out
    )
    found = json.loads((copy / "results_ensemble.json").read_text())
    assert found["chooser"] == str(chooser)
    alone = next(one for one in found["validation"]["curve"] if one["method"] == "model")
    exact = ["--config.evaluate.search=exhaustive", "--config.evaluate.exclude_history=False"]
    capsys.readouterr()
    assert command("--mode=evaluate", f"--workdir={chooser}", *exact) == 0
    row = next(one for one in capsys.readouterr().out.splitlines() if one.startswith("GenRec"))
    assert row.split()[6] == f"{alone['NDCG@10']:.5f}"

    for other, told in (
        (run, f"--chooser={run}: found config.data.drop_last=0, expected 1"),
        (tmp_path / "none", "found no finished run"),
    ):
        assert ensemble.main(["ensemble", f"--workdir={copy}", f"--chooser={other}"]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    change_config(other, data__drop_last=1)  # but it was trained on the whole log
    assert ensemble.main(["ensemble", f"--workdir={copy}", f"--chooser={other}"]) == 2
    assert f"--chooser={other}: the run was trained on other data" in capsys.readouterr().err


# ------------------------------------------------------------------------------------ bad input


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a wrong command prints; its exit code is 2."""
    capsys.readouterr()
    assert command(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("error: ")
    return captured.err


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("--config.sede=1", ["config.sede: no such key", "did you mean config.seed"]),
        ("--config.epochs=1", ["config.epochs", "config.finetune.epochs, config.pretrain.epochs"]),
        ("--config.model=3", ["config.model: found a group of keys"]),
        ("--config.finetune.epochs=1.5", ["config.finetune.epochs=1.5", "expected a whole number"]),
        ("--config.seed=many", ["config.seed=many"]),
        ("--config.data.name=books", ["config.data.name: found 'books'", "beauty, sports, yelp"]),
        ("--config.indexing=titles", ["config.indexing: found 'titles'", "published, random"]),
        ("--config.finetune.holdout=1", ["include_validation_item: False for 2, True for 1"]),
        (
            "--config.model.dropout=1.0",
            ["config.model.dropout: found 1.0", "expected a number in [0, 1)"],
        ),
        ("--config.pretrain.learning_rate=0", ["config.pretrain.learning_rate", "above 0"]),
        ("--config.pretrain.learning_rate=nan", ["config.pretrain.learning_rate", "finite"]),
        ("--config.evaluate.beams=10", ["config.evaluate.top_k: found 20", "beams = 10"]),
        ("--config.model.attention_heads=3", ["attention_heads: found 3", "d_model = 64"]),
        ("--config.data.file=x.txt", ["config.data", "if and only if name is 'file'"]),
        ("--config.finetune.batch_size=0", ["config.finetune.batch_size: found 0", "at least 1"]),
        ("--mode=predict", ["mode=predict", "train, evaluate, recommend, audit"]),
        ("--wordkir=x", ["--wordkir: no such flag; did you mean --workdir?"]),
        ("stray", ["stray: not a flag"]),
        ("--histories=x", ["--histories: no such flag; it is a flag of recommend"]),
        ("--config.model.max_tokens=20", ["config.model.max_tokens: found 20", "multiple of 8"]),
    ],
)
def test_wrong_flags(
    argument: str, parts: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    line = fails(capsys, CONFIG, f"--workdir={workdir}", argument)
    for part in parts:
        assert part in line
    assert not workdir.exists()


def test_no_config_and_no_such_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--config: found none" in fails(capsys)
    line = fails(capsys, "--mode=evaluate", "--config.seed=1")
    assert "found no config to change, expected --config=configs/NAME.py[:variant] or" in line
    with pytest.raises(InputError, match="none: this config has no variants"):
        check_variant("tiny", ())
    assert "expected one of codes, sasrec" in fails(capsys, f"{CONFIG}:tiny")
    assert "found no file configs/books.py" in fails(capsys, "--config=configs/books.py")
    line = fails(capsys, f"--config={ROOT / 'configs' / 'beauty.py'}:tiny")
    assert "no variant 'tiny', expected one of leakfree" in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1 5 6 7\n2 5 six 7\n", ["line 2", "found 'six'", "whole number"]),
        ("1 5 6 7\n2 5 -6 7\n", ["line 2", "found '-6'"]),
        ("1 5 6 7\n2 5 6\n", ["line 2", "user 2 with 2 items", "at least 3"]),
        ("1 5 6 7\n\n2 5 6 7\n", ["line 2", "found an empty line"]),
        ("1 5 6 7\n2 5 6 7\n1 6 7 8\n", ["line 3", "user 1 again, already on line 1"]),
        ("", ["found an empty file"]),
    ],
)
def test_wrong_lines_of_a_sequence_file(
    text: str, parts: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "log.txt"
    path.write_text(text)
    data = ["--config.data.name=file", f"--config.data.file={path}"]
    line = fails(capsys, CONFIG, f"--workdir={tmp_path / 'run'}", *data)
    for part in [str(path), *parts]:
        assert part in line


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x = 1", "found no get_config(), expected one"),
        ("def get_config():\n    return {}", "returned a dict, expected a ConfigDict"),
        ("def get_config():\n    pass", "returned a NoneType, expected a ConfigDict"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("from genrec_jax.config import Config", "; the module is now genrec_jax.runs.config"),
        ("def get_config(:", "invalid syntax"),
    ],
)
def test_config_files_with_faults(
    text: str,
    part: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # ml_collections loads every config file into one module, over what the last one left there.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    path = tmp_path / "mine.py"
    path.write_text(text)
    line = fails(capsys, f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert part in line
    if not part.startswith(("found", "returned")):  # what is seen when the file has been read
        assert f"--config={path}: the file fails with " in line


def test_a_platform_that_is_not_there(tmp_path: Path) -> None:
    code = "import sys; from genrec_jax.main import main; sys.exit(main(sys.argv))"
    arguments = ["main", CONFIG, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments[1:]],
        env={**os.environ, "JAX_PLATFORMS": "tpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: JAX_PLATFORMS: JAX cannot use tpu")
    assert done.stderr.count("\n") == 1


def test_missing_and_corrupt_dataset_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beauty = [CONFIG, f"--workdir={tmp_path / 'run'}", "--config.data.name=beauty"]
    line = fails(capsys, *beauty, f"--config.data.dir={tmp_path}")
    assert f"config.data.dir: found no Beauty.txt in {tmp_path}" in line
    (tmp_path / "Beauty.txt").write_text("1 2 3 4\n")
    line = fails(capsys, *beauty, f"--config.data.dir={tmp_path}")
    assert "Beauty.txt: found 8 bytes with sha256" in line
    assert "expected 1090094 bytes with sha256 226cce9c3105" in line
    missing = tmp_path / "none.txt"
    data = ["--config.data.name=file", f"--config.data.file={missing}"]
    line = fails(capsys, CONFIG, f"--workdir={tmp_path / 'run'}", *data)
    assert f"config.data.file: found nothing at {missing}" in line

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("pooch.retrieve", no_network)
    monkeypatch.setenv("GENREC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("GENREC_DATA_DIR", raising=False)
    line = fails(capsys, *beauty)
    assert "cannot be downloaded from https://" in line
    assert "set config.data.dir or GENREC_DATA_DIR" in line


def test_wrong_checkpoints_and_tokenizers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oracle import save, small_bart

    workdir = f"--workdir={tmp_path / 'run'}"
    line = fails(capsys, CONFIG, workdir, f"--config.model.pretrained={tmp_path / 'no'}")
    assert "expected an existing folder, or a hub id" in line

    folder = tmp_path / "bart"
    folder.mkdir()
    line = fails(capsys, CONFIG, workdir, f"--config.model.pretrained={folder}")
    assert "found no tokenizer (vocab.json, merges.txt missing)" in line

    save(small_bart(vocab_size=300), folder)
    specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = [*specials[:4], *ByteLevel.alphabet(), specials[4]]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(alphabet)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    line = fails(capsys, CONFIG, workdir, f"--config.model.pretrained={folder}")
    assert f"config.model: found values that contradict the checkpoint {folder}: " in line
    assert "d_model: found 64, expected 32" in line

    def no_hub(*_: object, **__: object) -> None:
        raise OSError("name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_hub)
    line = fails(capsys, CONFIG, workdir, "--config.model.pretrained=owner/model")
    assert "owner/model cannot be downloaded from the hub (name or service not known)" in line
    assert "config.json, model.safetensors, vocab.json and merges.txt" in line
    assert "train from scratch with --config.model.pretrained=" in line


def test_wrong_workdirs(
    run: Path, copy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = fails(capsys, CONFIG, f"--workdir={run}", *SMALL_MODEL, "--config.seed=7")
    assert "a run of another config (config.seed: found 7, expected 0)" in line
    line = fails(capsys, "--mode=evaluate", f"--workdir={tmp_path / 'none'}")
    assert "found no run.json, expected a run's folder" in line
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("")
    assert "expected an empty folder or a run" in fails(capsys, CONFIG, f"--workdir={other}")
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text("[]")
    line = fails(capsys, "--mode=evaluate", f"--workdir={copy}")
    assert "config.json: found [], expected" in line
    (copy / "config.json").write_text(config)
    assert "no checkpoint of step 99, found: " in fails(
        capsys, "--mode=evaluate", f"--workdir={copy}", "--step=99"
    )
    step = max((copy / "checkpoints").iterdir())
    for path in (step / "params").rglob("*"):  # cut every file in half
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = fails(capsys, "--mode=evaluate", f"--workdir={copy}", f"--step={step.name}")
    assert str(step / "params") in line
    assert re.search(r"found \d+ bytes with sha256 \w+…, expected \d+ bytes", line)
    shutil.rmtree(copy)
    shutil.copytree(run, copy)
    shape = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**shape, "d_model": 32}))
    line = fails(capsys, "--mode=evaluate", f"--workdir={copy}")
    assert f"{copy / 'model.json'}: was changed after the run was created" in line
    sign(copy)
    line = fails(capsys, "--mode=evaluate", f"--workdir={copy}")
    assert "checkpoint is of another model" in line
    assert "expected (32,)" in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1 2 3\n1 2 x\n", ["line 2", "found 'x'"]),
        ("1 2 3\n1 41\n", ["line 2", "item 41 is unknown, expected one of the run's 40 items"]),
        ("81 2\n", ["line 1", "user 81 is unknown, expected one of the run's 80 users"]),
        ("1 2\n\n", ["line 2", "found an empty line"]),
    ],
)
def test_wrong_histories(
    run: Path, text: str, parts: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "histories.txt"
    path.write_text(text)
    line = fails(capsys, "--mode=recommend", f"--workdir={run}", f"--histories={path}")
    for part in [str(path), *parts]:
        assert part in line


def test_the_default_workdir_names_config_and_variant(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "beauty_small").mkdir(parents=True)
    (tmp_path / "runs" / "beauty_small" / "mine").touch()
    line = fails(capsys, f"--config={ROOT / 'configs' / 'beauty.py'}:small")
    assert "--workdir=runs/beauty_small: found a folder with other files" in line


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    assert "--mode=recommend" in capsys.readouterr().out
