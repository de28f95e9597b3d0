"""Sweeps: running, pruning, resuming and reporting. Most trials here only simulate training."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from repository import ROOT
from stored import sign
from sweeping import ABLATION, SEARCH, file, run
from tiny_run import ARGUMENTS, CONFIG, check_same, checkpoints

from genrec_jax.cli.sweep import main
from genrec_jax.runs.config import default_config
from genrec_jax.runs.run_format import make_record
from genrec_jax.sweeps import sweep
from genrec_jax.sweeps.ablation import ablation_trials
from genrec_jax.sweeps.spec import Ablation, load_sweep
from genrec_jax.sweeps.trials import Trial, config_of

TINY = [argument for argument in ARGUMENTS if argument != CONFIG]

# Simulates a run in a tenth of a second; arguments: its directory, config and run.json as JSON.
SIMULATED_RUN = """
import json, pathlib, signal, sys, time
folder, config = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
if config["model"]["user_dropout"] == 0.25 and not (folder.parent / "mended").exists():
    sys.exit("error: config.model.user_dropout: one quarter is rejected here")
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.json").write_text(json.dumps(config))
(folder / "run.json").write_text(sys.argv[3])
with (folder / "calls").open("a") as file:
    file.write("x")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
lines = []
value = 1 - config["model"]["dropout"] + 0.1 * config["seed"]
for step in (10, 20, 30):
    lines.append({"step": step, "phase": "validation", "NDCG@10": value * step / 100})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + chr(10) for x in lines))
    seconds = folder.parent / "seconds"
    time.sleep(float(seconds.read_text()) if seconds.exists() else 0.0)
metrics = {name: value / 10 for name in ("HR@5", "NDCG@5", "HR@10", "NDCG@10")}
baselines = ("popularity", "own history, newest first", "item-transition kNN")
result = {
    **dict.fromkeys(("model", "dataset", "split", "search"), "x"),
    **dict.fromkeys(("intervals", "seconds"), {}),
    "counts": {"best_step": 20},
    "metrics": metrics,
    "references": {name: dict.fromkeys(metrics, 0.01) for name in baselines},
}
(folder / "results.json").write_text(json.dumps(result))
"""


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the commands of all trials by simulated runs."""

    def commands(trial: Trial) -> list[list[str]]:
        config = config_of(trial.flags, trial.name)
        files = config.to_json(), json.dumps(make_record(config.to_dict(), {}))
        return [[sys.executable, "-S", "-c", SIMULATED_RUN, str(trial.path), *files]]

    monkeypatch.setattr(Trial, "commands", property(commands))


def cells(workdir: Path) -> dict[str, list[str]]:
    """Return the table's rows by their first cell."""
    lines = (workdir / "table.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return {row[0]: row[1:] for row in rows}


def calls(workdir: Path) -> dict[str, int]:
    """Return how often each run was started."""
    return {path.parent.name: len(path.read_text()) for path in workdir.glob("runs/*/calls")}


@pytest.mark.usefixtures("simulated")
def test_an_ablation_and_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workdir = tmp_path / "sweep"
    flags = ("--config.model.dropout=0.5", "--workers=2")
    assert run(workdir, ABLATION, *flags) == 0
    names = {f"{name}-seed{seed}" for name in ("as-it-is", "no-dropout") for seed in (0, 1)}
    assert calls(workdir) == dict.fromkeys(names, 1)
    config = json.loads((workdir / "runs" / "as-it-is-seed1" / "config.json").read_text())
    assert (config["seed"], config["indexing_seed"], config["model"]["dropout"]) == (1, 1, 0.5)
    table = cells(workdir)
    # Validation scores .10 and .12 (of step 20, the best, not the last), test scores .05 and .06.
    assert table["as it is"][:3] == ["2 of 2", "0.1100 ± 0.0141", "0.0550 ± 0.0071"]
    assert table["+ no dropout"][:3] == ["2 of 2", "0.2100 ± 0.0141", "0.1050 ± 0.0071"]
    assert table["*popularity*"][2:6] == ["0.0100"] * 4
    assert "| + no dropout" in capsys.readouterr().out
    page = (workdir / "report.html").read_text()
    assert page.count("<circle") == 2 + 2 + 3
    trials = json.loads((workdir / "trials.json").read_text())
    assert {trial["name"] for trial in trials} == names
    assert all(trial["seconds"] > 0 for trial in trials)
    # Rerunning starts nothing; a new setting starts only its own trials.
    assert run(workdir, ABLATION, *flags) == 0
    assert calls(workdir) == dict.fromkeys(names, 1)
    more = ABLATION.replace('"as it is"', '"new": Setting({"model.dropout": 0.2}), "as it is"')
    assert run(workdir, more, *flags) == 0
    assert calls(workdir) == dict.fromkeys({*names, "new-seed0", "new-seed1"}, 1)


@pytest.mark.usefixtures("simulated")
def test_an_ablation_without_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that exclude history items have no own-history baselines."""
    name = '"own history, newest first", '
    monkeypatch.setattr(f"{__name__}.SIMULATED_RUN", SIMULATED_RUN.replace(name, ""))
    workdir = tmp_path / "sweep"
    assert run(workdir, ABLATION, "--config.evaluate.exclude_history=True") == 0
    rows = [row for row in cells(workdir) if row.startswith("*")]
    assert rows == ["*popularity*", "*item-transition kNN*"]


@pytest.mark.usefixtures("simulated")
def test_a_failing_setting_is_reported_and_the_others_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "sweep"
    bad = ABLATION.replace('"as it is": Setting()', '"bad": Setting({"model.user_dropout": 0.25})')
    assert run(workdir, bad) == 1
    output = capsys.readouterr().out
    reason = "error: config.model.user_dropout: one quarter is rejected here"
    assert f"not finished: {workdir / 'runs' / 'bad-seed0'}: {reason}" in output
    assert cells(workdir)["bad"][:2] == ["0 of 2, 2 failed", "–"]
    assert cells(workdir)["+ no dropout"][0] == "2 of 2"
    (workdir / "runs" / "mended").touch()
    assert run(workdir, bad) == 0
    assert cells(workdir)["bad"][0] == "2 of 2"
    assert calls(workdir)["no-dropout-seed0"] == 1


def stop_when_there_are(n: int, pattern: str, folder: Path) -> threading.Thread:
    """Send SIGTERM to this process as soon as `n` files match the pattern."""

    def wait() -> None:
        while len(list(folder.glob(pattern))) < n:
            time.sleep(0.05)
        time.sleep(0.3)  # the trials install their signal handlers
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("simulated")
def test_a_signal_stops_the_trials_and_they_are_resumed(tmp_path: Path) -> None:
    workdir = tmp_path / "sweep"
    (workdir / "runs").mkdir(parents=True)
    (workdir / "runs" / "seconds").write_text("100")
    timer = stop_when_there_are(2, "runs/*/calls", workdir)
    started = time.monotonic()
    assert run(workdir, ABLATION, "--workers=2") == 75
    assert time.monotonic() - started < 20
    timer.join()
    assert calls(workdir) == {"as-it-is-seed0": 1, "no-dropout-seed0": 1}
    assert cells(workdir)["as it is"][0] == "0 of 2"  # stopped trials have not failed
    (workdir / "runs" / "seconds").write_text("0")
    assert run(workdir, ABLATION, "--workers=2") == 0
    assert calls(workdir)["as-it-is-seed0"] == 2
    assert cells(workdir)["as it is"][0] == "2 of 2"


@pytest.mark.usefixtures("simulated")
def test_an_ensemble_result_with_other_settings_is_replaced(tmp_path: Path) -> None:
    workdir = tmp_path / "sweep"
    assert run(workdir, ABLATION) == 0
    path = workdir / "runs" / "as-it-is-seed0"
    trial = Trial("one", "one", 0, (), path, ensemble=True)
    evaluate = json.loads((path / "config.json").read_text())["evaluate"]
    for changes, is_current in (({}, True), ({"users": 20}, False)):
        result = {"metrics": {}, "evaluate": evaluate | changes}
        (path / "results_ensemble.json").write_text(json.dumps(result))
        assert trial.is_finished == is_current
        assert (trial.ensemble_result is not None) == is_current
    result = {"metrics": {}, "evaluate": evaluate, "chooser": "another run"}
    (path / "results_ensemble.json").write_text(json.dumps(result))
    assert trial.ensemble_result is None


@pytest.mark.usefixtures("simulated")
def test_vertical_bars_in_labels_are_escaped(tmp_path: Path) -> None:
    workdir = tmp_path / "sweep"
    assert run(workdir, ABLATION.replace("+ no dropout", "no | dropout")) == 0
    assert "| no \\| dropout " in (workdir / "table.md").read_text()


@pytest.mark.usefixtures("simulated")
def test_a_search_and_its_extension_by_more_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "sweep"
    assert run(workdir, SEARCH) == 0
    assert "best: trial-000" in capsys.readouterr().out
    assert calls(workdir) == {f"trial-{n:04d}": 1 for n in range(3)}
    trials = json.loads((workdir / "trials.json").read_text())
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    rates = {trial["values"]["finetune.learning_rate"] for trial in trials}
    assert len(rates) == 3
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert "NDCG@10" in cells(workdir)["trial"][1]
    assert "test" not in (workdir / "table.md").read_text().splitlines()[2]
    assert run(workdir, SEARCH) == 0
    assert run(workdir, SEARCH.replace("trials=3", "trials=5")) == 0
    assert calls(workdir) == {f"trial-{n:04d}": 1 for n in range(5)}
    capsys.readouterr()
    assert run(workdir, SEARCH.replace("1e-4", "1e-5")) == 2
    assert "found another search (differs in: ranges)" in capsys.readouterr().err


@pytest.mark.usefixtures("simulated")
def test_a_search_is_resumed_and_prunes(tmp_path: Path) -> None:
    workdir = tmp_path / "sweep"
    (workdir / "runs").mkdir(parents=True)
    # The dropout determines the simulated score.
    text = SEARCH.replace(
        '"finetune.warmup": Choice((0.0, 0.1))', '"model.dropout": Range(0.0, 0.9)'
    )
    (workdir / "runs" / "seconds").write_text("100")
    timer = stop_when_there_are(1, "runs/*/calls", workdir)
    assert run(workdir, text) == 75
    timer.join()
    assert calls(workdir) == {"trial-0000": 1}
    proposed = json.loads((workdir / "runs" / "trial-0000" / "config.json").read_text())
    (workdir / "runs" / "seconds").write_text("0")
    assert run(workdir, text) == 0
    assert calls(workdir) == {"trial-0000": 2, "trial-0001": 1, "trial-0002": 1}
    resumed = json.loads((workdir / "runs" / "trial-0000" / "config.json").read_text())
    assert resumed == proposed
    # Slow from now on: trials below the median of the first 3 are pruned at their first validation.
    (workdir / "runs" / "seconds").write_text("1.0")
    assert run(workdir, text.replace("trials=3", "trials=8"), "--workers=5") == 0
    trials = json.loads((workdir / "trials.json").read_text())
    states = [trial["state"] for trial in trials]
    assert set(states) == {"complete", "pruned below the median"}
    pruned = [trial for trial in trials if trial["state"] != "complete"]
    best = max(trials, key=lambda trial: trial["score"])
    assert best["state"] == "complete"
    assert all(trial["score"] < best["score"] for trial in pruned)


@pytest.mark.usefixtures("simulated")
def test_a_search_with_failures_is_resumed(tmp_path: Path) -> None:
    """All failed trials are in the queue together; the table lists them before they run."""
    workdir = tmp_path / "sweep"
    text = SEARCH.replace(
        '"finetune.warmup": Choice((0.0, 0.1))', '"model.dropout": Choice((0.0,))'
    )
    failing = "--config.model.user_dropout=0.25"
    assert run(workdir, text, failing) == 1
    (workdir / "runs").mkdir(exist_ok=True)
    (workdir / "runs" / "mended").touch()
    assert run(workdir, text, failing) == 0
    trials = json.loads((workdir / "trials.json").read_text())
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    assert calls(workdir) == {f"trial-{n:04d}": 1 for n in range(3)}


@pytest.mark.usefixtures("simulated")
def test_a_search_cannot_change_its_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine_config.py"
    text = (ROOT / "configs" / "quickstart.py").read_text()
    config.write_text(text)
    flags = (f"--config={config}", f"--sweep={file(tmp_path, SEARCH)}")
    workdir = f"--workdir={tmp_path / 'sweep'}"
    assert main(["sweep", *flags, workdir]) == 0
    config.write_text(text.replace("return config", "config.seed = 5\n    return config"))
    assert main(["sweep", *flags, workdir]) == 2
    assert "differs in: the config's keys" in capsys.readouterr().err


def test_the_validations_that_select_the_checkpoint(tmp_path: Path) -> None:
    trial = Trial("one", "one", 0, (), tmp_path)
    phases = ("pretrain", "validation", "pretrain", "validation", "finetune", "validation")
    steps = (10, 10, 20, 20, 30, 30)
    lines = [
        json.dumps({"phase": phase, "step": step, "NDCG@10": step / 100})
        for phase, step in zip(phases, steps, strict=True)
    ]
    for epochs, logged, expected in (
        (1, 4, []),
        (1, 6, [(30, 0.3)]),
        (0, 4, [(10, 0.1), (20, 0.2)]),
    ):
        config = default_config().to_dict()
        config["finetune"]["epochs"] = epochs
        (tmp_path / "config.json").write_text(json.dumps(config))
        sign(tmp_path)
        (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines[:logged]))
        assert trial.choosing_validations() == expected


@pytest.mark.usefixtures("simulated")
def test_a_single_stopped_trial_is_resumable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stops = [sys.executable, "-S", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"]
    monkeypatch.setattr(Trial, "commands", property(lambda trial: [stops]))
    assert run(tmp_path / "sweep", ABLATION) == 1
    assert cells(tmp_path / "sweep")["as it is"][0] == "0 of 2"
    assert "as-it-is-seed0: stopped, resumable" in capsys.readouterr().out


def test_a_stopped_sweep_starts_no_further_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first command of the trial succeeds just after the signal."""
    ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    marks = [f"open({str(tmp_path / f'mark-{n}')!r}, 'w')" for n in (0, 1)]
    codes = (f"{ignoring}; {marks[0]}; time.sleep(2)", marks[1])
    commands = [[sys.executable, "-S", "-c", code] for code in codes]
    monkeypatch.setattr(Trial, "commands", property(lambda trial: list(commands)))
    timer = stop_when_there_are(1, "mark-0", tmp_path)
    assert run(tmp_path / "sweep", ABLATION) == 75
    timer.join()
    assert not (tmp_path / "mark-1").exists()


@pytest.mark.usefixtures("simulated")
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(sweep, "write_atomically", full)
    assert run(tmp_path / "sweep", ABLATION) == 74
    assert capsys.readouterr().err.count("\n") == 1


def test_the_shipped_sweeps_can_be_loaded() -> None:
    paths = sorted((ROOT / "configs" / "sweeps").glob("*.py"))
    assert paths
    for path in paths:
        load_sweep(path)


# ------------------------------------------------------------------------------- real trials


def command(workdir: Path, sweep_file: Path, *flags: str) -> list[str]:
    return [
        *(sys.executable, "-m", "genrec_jax", "sweep", CONFIG, *TINY, *flags),
        *(f"--sweep={sweep_file}", f"--workdir={workdir}"),
    ]


def environment(cache: Path) -> dict[str, Any]:
    return {"cwd": ROOT, "text": True, "env": {**os.environ, "GENREC_CACHE_DIR": str(cache)}}


@pytest.mark.slow
def test_a_real_trial_and_its_ensemble(tmp_path: Path) -> None:
    text = ABLATION.replace("(0, 1)", "(0,)").replace("Setting()", "Setting(ensemble=True)")
    text = text.replace('"+ no dropout": Setting({"model.dropout": 0.0}),', "")
    workdir = tmp_path / "sweep"
    # One phase of a few steps: compilation takes nearly all of the time.
    short = ("--config.pretrain.epochs=0", "--config.finetune.max_steps=10")
    short = (*short, "--config.finetune.validate_every_steps=0", "--config.data.buckets=1")
    whole = command(workdir, file(tmp_path, text), *short)
    done = subprocess.run(whole, capture_output=True, **environment(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    trial = workdir / "runs" / "as-it-is-seed0"
    ensemble = json.loads((trial / "results_ensemble.json").read_text())
    table = cells(workdir)
    assert table["as it is + kNN"][5] == f"{ensemble['metrics']['NDCG@10']:.4f}"
    best = max(ensemble["validation"]["curve"], key=lambda one: one["NDCG@10"])
    assert table["as it is + kNN"][1] == f"{best['NDCG@10']:.4f}"
    assert {key: best[key] for key in ensemble["ensemble"]} == ensemble["ensemble"]
    result = json.loads((trial / "results.json").read_text())
    assert table["as it is"][5] == f"{result['metrics']['NDCG@10']:.4f}"
    # With 40 items and 20 beams, beam search and exact ranking nearly agree.
    alone = ensemble["references"]["GenRec"]["NDCG@10"]
    assert alone == pytest.approx(result["metrics"]["NDCG@10"], abs=0.02)
    assert (
        ensemble["references"]["item-transition kNN"] == result["references"]["item-transition kNN"]
    )
    assert (trial / "predictions" / "ensemble_test.parquet").is_file()


@pytest.mark.slow
def test_a_real_ablation_that_is_stopped_and_resumed(tmp_path: Path) -> None:
    path = file(tmp_path, ABLATION)
    options = environment(tmp_path)
    done = subprocess.run(command(tmp_path / "whole", path), **options)
    assert done.returncode == 0
    cut = subprocess.Popen(command(tmp_path / "cut", path), **options)
    trial = tmp_path / "cut" / "runs" / "no-dropout-seed0"
    while cut.poll() is None and not checkpoints(trial):
        time.sleep(0.02)
    cut.send_signal(signal.SIGTERM)
    assert cut.wait(120) == 75
    assert not (trial / "results.json").is_file()
    again = command(tmp_path / "cut", path, "--workers=2")
    assert subprocess.run(again, **options).returncode == 0
    for name in ("as-it-is", "no-dropout"):
        for seed in (0, 1):
            ours, theirs = (
                tmp_path / which / "runs" / f"{name}-seed{seed}" for which in ("cut", "whole")
            )
            check_same(ours, theirs)
    assert "resuming from the checkpoint" in (trial / "log.txt").read_text()
    ours, theirs = cells(tmp_path / "cut"), cells(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    for label in ("as it is", "+ no dropout"):
        assert ours[label][:-1] == theirs[label][:-1]  # all but the minutes
        tests = [
            json.loads((path / "results.json").read_text())["metrics"]["NDCG@10"]
            for path in sorted((tmp_path / "whole" / "runs").glob(f"{label.strip('+ ')[:2]}*"))
        ]
        assert ours[label][5].startswith(f"{sum(tests) / 2:.4f} ±")


@pytest.mark.slow
def test_a_real_search(tmp_path: Path) -> None:
    workdir = tmp_path / "sweep"
    whole = command(workdir, file(tmp_path, SEARCH))
    assert subprocess.run(whole, **environment(tmp_path)).returncode == 0
    study = optuna.load_study(
        study_name="sweep",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(workdir / "study.log"))
        ),
    )
    assert len(study.trials) == 3
    for trial in study.trials:
        folder = workdir / "runs" / trial.user_attrs["run"]
        config = json.loads((folder / "config.json").read_text())
        assert config["finetune"]["epochs"] == trial.params["finetune.epochs"]
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        scores = [line["NDCG@10"] for line in lines if line["phase"] == "validation"]
        assert trial.value in scores


FAMILIES = """
from genrec_jax.sweeps.spec import Ablation, Setting

def get_sweep():
    return Ablation(
        seeds=(0, 1),
        base={{"pretrain.epochs": 1, "finetune.epochs": 2}},
        settings={{
            "paper": Setting(),
            "SASRec": Setting({{"finetune.learning_rate": 1e-3}}, config={config!r}),
        }},
    )
"""


def test_one_ablation_compares_families(tmp_path: Path) -> None:
    """Base keys, flags and seeds apply to the settings whose model family has them."""
    path = file(tmp_path, FAMILIES.format(config=f"{CONFIG.removeprefix('--config=')}:sasrec"))
    ablation = load_sweep(path)
    assert isinstance(ablation, Ablation)
    common = ["--config.evaluate.beams=21", "--config.log_every_steps=7"]
    config = CONFIG.removeprefix("--config=")
    trials = ablation_trials(ablation, config, common, tmp_path / "runs")
    configs = {trial.name: config_of(trial.flags, trial.name).to_dict() for trial in trials}
    assert set(configs) == {"paper-seed0", "sasrec-seed0", "paper-seed1", "sasrec-seed1"}
    paper, sasrec = configs["paper-seed1"], configs["sasrec-seed1"]
    assert (paper["seed"], paper["indexing_seed"], sasrec["seed"]) == (1, 1, 1)
    assert (paper["pretrain"]["epochs"], paper["evaluate"]["beams"]) == (1, 21)
    assert "pretrain" not in sasrec
    assert [one["finetune"]["epochs"] for one in (paper, sasrec)] == [2, 2]
    assert [one["log_every_steps"] for one in (paper, sasrec)] == [7, 7]


def test_a_base_key_that_no_family_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = f"{CONFIG.removeprefix('--config=')}:sasrec"
    text = FAMILIES.format(config=config).replace("pretrain.epochs", "pretrain.epoch")
    assert run(tmp_path / "sweep", text) == 2
    error = capsys.readouterr().err
    assert "settings['paper']: config.pretrain.epoch: no such key; did you mean config." in error
