"""Files found from any working folder: configs, sweeps and assets; and the package version."""

import importlib.metadata
from pathlib import Path

import pytest
from repository import ROOT

from genrec_jax import __version__
from genrec_jax.cli import prepare
from genrec_jax.core import shipped
from genrec_jax.core.errors import InputError
from genrec_jax.data.datasets import load_named
from genrec_jax.evaluation import evaluate
from genrec_jax.main import main
from genrec_jax.models.genrec.hub import checkpoint_folder
from genrec_jax.sweeps.ablation import ablation_trials
from genrec_jax.sweeps.spec import Ablation, load_sweep

SHIPPED = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("configs/[!_]*.py"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test starts in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on standard error."""
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    "flag", [["--config=configs/quickstart.py"], ["--config", "configs/quickstart.py"]]
)
def test_a_config_is_found(flag: list[str]) -> None:
    small = ["--config.data.synthetic_users=80", "--config.data.synthetic_items=40"]
    assert main(["main", "--mode=audit", *flag, *small]) == 0


def test_the_default_workdir_follows_from_the_config_name(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = elsewhere / "runs" / "beauty_small"
    taken.mkdir(parents=True)
    (taken / "mine").touch()
    assert main(["main", "--config=configs/beauty.py:small"]) == 2
    assert "--workdir=runs/beauty_small: " in error(capsys)


def test_the_working_folder_comes_first(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = elsewhere / "configs" / "quickstart.py"
    local.parent.mkdir()
    local.write_text(
        "def get_config(variant=''):\n    raise RuntimeError('the file of this folder')\n"
    )
    assert main(["main", "--config=configs/quickstart.py"]) == 2
    assert "the file of this folder" in error(capsys)


@pytest.mark.parametrize(
    "name",
    ["quickstart.py", "pyproject.toml", "configs/../pyproject.toml", "genrec_jax/main.py"],
)
def test_only_configs_are_looked_up_among_shipped_files(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["main", f"--config={name}"]) == 2
    assert f"--config: found no file {name}" in error(capsys)


@pytest.mark.parametrize("flag", [["--config=configs/books.py"], ["--config", "configs/books.py"]])
@pytest.mark.parametrize("command", [main, prepare.main])
def test_the_message_for_a_missing_config_lists_both_locations(
    flag: list[str], command, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped_files = f"shipped with genrec_jax: {', '.join(SHIPPED)}\n"
    assert command(["command", *flag]) == 2
    assert error(capsys) == f"error: --config: found no file configs/books.py; {shipped_files}"
    (elsewhere / "configs").mkdir()
    (elsewhere / "configs" / "mine.py").touch()
    assert command(["command", *flag]) == 2
    expected = f"configs/books.py; in the working folder: configs/mine.py; {shipped_files}"
    assert error(capsys).endswith(expected)


def test_a_checkout_is_listed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["main", "--config=configs/books.py"]) == 2
    assert error(capsys).count("configs/beauty.py") == 1


def test_a_sweep_and_its_configs_are_found(elsewhere: Path) -> None:
    sweep = load_sweep(Path("configs/sweeps/beauty.py"))
    assert isinstance(sweep, Ablation)
    trials = ablation_trials(sweep, "configs/beauty.py:best", (), elsewhere / "runs")
    # Trials keep the relative name, so that their records do not depend on the installation.
    names = {trial.flags[0] for trial in trials}
    configs = ("beauty.py:best", "beauty.py:small", "sasrec.py:beauty")
    assert names == {f"--config=configs/{config}" for config in configs}


def test_the_message_for_a_missing_sweep_lists_the_available_ones() -> None:
    with pytest.raises(
        InputError, match=r"--sweep: found no file configs/sweeps/no\.py; shipped"
    ) as e:
        load_sweep(Path("configs/sweeps/no.py"))
    assert "configs/sweeps/quickstart_search.py" in str(e.value)


def test_a_log_is_prepared(elsewhere: Path) -> None:
    rows = [f"u{user},i{item},{10 * user + item}" for user in range(8) for item in range(6)]
    (elsewhere / "log.csv").write_text("\n".join(["user,item,time", *rows, ""]))
    flags = ["--config=configs/prepare.py", "--config.log.file=log.csv", "--output=prepared"]
    assert prepare.main(["prepare", *flags]) == 0
    assert (elsewhere / "prepared" / "dataset.json").is_file()


def test_a_package_copied_without_its_assets_names_the_missing_file(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "ASSETS", elsewhere / "third_party" / "assets.toml")
    monkeypatch.delenv("GENREC_BART_DIR", raising=False)
    for use in (lambda: load_named("beauty"), lambda: checkpoint_folder("facebook/bart-base")):
        with pytest.raises(InputError, match=r"assets\.toml: found no such file, expected the one"):
            use()


def test_versions_do_not_need_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PYTHONPATH alone, our package has no metadata, but its dependencies do."""
    version = importlib.metadata.version

    def only_of_others(name: str) -> str:
        if name == "genrec_jax":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", only_of_others)
    found = evaluate.versions()
    assert found["genrec_jax"] == __version__
    assert found["jax"] == version("jax")
