"""Invalid sweeps are reported in one line before anything starts."""

import sys
from pathlib import Path
from typing import Any

import pytest
from sweeping import ABLATION, SEARCH, run
from tiny_run import CONFIG

from genrec_jax.cli import sweep


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            ABLATION.replace("model.dropout", "model.droput"),
            ["settings['+ no dropout']", "no such"],
        ),
        (ABLATION.replace("0.0}", "'much'}"), ["config.model.dropout", "expected a number"]),
        (ABLATION.replace("0.0}", "1.5}"), ["config.model.dropout: found 1.5"]),
        (ABLATION.replace("0.0}", "[1]}"), ["model.dropout: found [1]"]),
        (ABLATION.replace("model.dropout", "seed"), ["found seed, which the sweep itself sets"]),
        (ABLATION.replace("+ no dropout", "As it: is"), ["settings['As it: is']", "as it is"]),
        (ABLATION.replace("(0, 1)", "(1, 1)"), ["seeds: found (1, 1)", "no duplicates"]),
        (ABLATION.replace("get_sweep", "sweep"), ["found no get_sweep()", "get_sweep"]),
        (ABLATION.replace("Ablation(", "dict("), ["expected an Ablation or a Search"]),
        (ABLATION.replace('Setting({"model', 'Setting(config="x.py", changes={"model'), ["x.py"]),
        (ABLATION.replace("def get", "raise SystemExit('bye')\ndef get"), ["SystemExit: bye"]),
        (
            ABLATION.replace('"model.dropout": 0.0', '"evaluate.exclude_history": True'),
            ["different test conditions", "history items excluded in '+ no dropout'"],
        ),
        (
            ABLATION.replace("Setting()", "Setting(ensemble=True)").replace(
                "+ no dropout", "as it is + kNN"
            ),
            ["settings['as it is']: found another setting 'as it is + kNN'"],
        ),
        (
            ABLATION.replace(
                "Setting()", "Setting({'finetune.include_validation_item': True}, ensemble=True)"
            ),
            ["config.finetune.include_validation_item: found True"],
        ),
        (
            ABLATION.replace('"model.dropout": 0.0', '"data.drop_last": 1'),
            ["different test conditions", "without the last 1 items"],
        ),
        (SEARCH.replace("finetune.warmup", "finetune.warmpu"), ["finetune.warmpu: no such key"]),
        (SEARCH.replace("(0.0, 0.1)", "(0.0, 2.0)"), ["ranges['finetune.warmup']", "found 2.0"]),
        (SEARCH.replace("1e-4", "1.0"), ["ranges['finetune.learning_rate']", "low < high"]),
        (SEARCH.replace("Range(1, 3)", "3"), ["expected a Range or a Choice"]),
        (SEARCH.replace("first_trials=2", "first_trials=-1"), ["first_trials=-1"]),
    ],
)
def test_invalid_sweeps_are_reported_before_anything_starts(
    text: str, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "sweep", text) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    for part in parts:
        assert part in error
    assert not (tmp_path / "sweep").exists()


WRONG_TYPE = """
from genrec_jax.sweeps.spec import Ablation, Choice, Range, Search, Setting

def get_sweep():
    sweep = {make}
    object.__setattr__({what}, {value!r})  # bypasses the type checks
    return sweep
"""


@pytest.mark.parametrize(
    ("what", "value", "expected"),
    [
        ("sweep, 'seeds'", 5, "seeds: found 5, expected tuple or list"),
        ("sweep, 'seeds'", "01", "seeds: found '01', expected tuple or list"),
        ("sweep, 'seeds'", ("0",), "seeds: found '0', expected int"),
        ("sweep, 'seeds'", (True,), "seeds: found True, expected int"),
        ("sweep, 'settings'", ["one"], "settings: found ['one'], expected Mapping"),
        ("sweep, 'settings'", {3: 1}, "settings[3]: found 3, expected str"),
        ("sweep, 'settings'", {"one": 1}, "settings['one']: found 1, expected Setting"),
        ("sweep, 'base'", ["seed"], "base: found ['seed'], expected Mapping"),
        ("sweep.settings['one'], 'changes'", "seed", "['one']: found 'seed', expected Mapping"),
        (
            "sweep.settings['one'], 'ensemble'",
            "no",
            "['one']: ensemble: found 'no', expected bool",
        ),
        ("sweep, 'ranges'", ["seed"], "ranges: found ['seed'], expected Mapping"),
        ("sweep, 'trials'", "3", "trials: found '3', expected int"),
        ("sweep.ranges['model.dropout'], 'low'", None, "['model.dropout']: found Range(low=None"),
        ("sweep.ranges['model.dropout'], 'values'", 1, "found 1, expected tuple or list"),
    ],
)
def test_values_of_the_wrong_type(
    what: str, value: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = "Ablation({'one': Setting()})"
    if "ranges" in what or "trials" in what:
        span = "Choice((0.0,))" if "values" in what else "Range(0.0, 0.5)"
        make = f"Search({{'model.dropout': {span}}})"
    text = WRONG_TYPE.format(make=make, what=what, value=value)
    assert run(tmp_path / "sweep", text) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_bad_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workdir = tmp_path / "sweep"
    for flag, part in (
        ("--config.sede=1", "did you mean config.seed"),
        ("--wrokers=2", "--wrokers: no such flag; did you mean --workers?"),
        ("--workers=0", "--workers: found 0"),
    ):
        assert run(workdir, ABLATION, flag) == 2
        assert part in capsys.readouterr().err
    (workdir / "runs" / "as-it-is-seed0").mkdir(parents=True)
    (workdir / "runs" / "as-it-is-seed0" / "thesis.tex").touch()
    assert run(workdir, ABLATION) == 2
    assert "expected an empty folder or a run" in capsys.readouterr().err
    assert sweep.main(["sweep", CONFIG, f"--sweep={tmp_path / 'no.py'}"]) == 2
    assert "--sweep: found no file" in capsys.readouterr().err


def test_a_search_without_optuna_reports_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command must work without a clone of the repository, as after installing a wheel."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "genrec_jax.sweeps.search", raising=False)
    assert run(tmp_path / "sweep", SEARCH) == 2
    error = capsys.readouterr().err
    assert "a search requires optuna: pip install 'optuna>=5.0'" in error
    assert error.count("\n") == 1
