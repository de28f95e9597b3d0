"""What is installed without a checkout: the wheel, built from the sdist, and runs from it.

The dependencies are those of the interpreter that runs the tests, so that pip downloads nothing.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from repository import ROOT
from tiny_run import ARGUMENTS

import genrec_jax

# All that a build reads.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "requirements.txt")
FOLDERS = ("genrec_jax", "configs", "third_party")
CONFIG = "--config=configs/quickstart.py"
TINY = [
    *ARGUMENTS[1:],
    *("--config.pretrain.epochs=0", "--config.finetune.max_steps=5"),
    "--config.finetune.validate_every_steps=0",
]


def build(*command: object, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def wheel(source: Path, output: Path) -> Path:
    """Build a folder or an sdist with the setuptools that is installed; the wheel's path."""
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    build("-m", "pip", "wheel", *offline, source, "-w", output, cwd=output.parent)
    (found,) = output.glob("*.whl")
    return found


def modules(path: Path) -> set[str]:
    """The files of a wheel that are not about the wheel itself."""
    names = zipfile.ZipFile(path).namelist()
    return {name for name in names if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, since a build leaves its own folders among them."""
    tree = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        shutil.copy(ROOT / name, tree)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


@pytest.fixture(scope="module")
def from_sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build("-c", f"import setuptools.build_meta as b; b.build_sdist({str(folder)!r})", cwd=tree)
    (sdist,) = folder.glob("*.tar.gz")
    return wheel(sdist, folder / "wheel")


@pytest.fixture(scope="module")
def environment(from_sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables with which Python imports genrec_jax from the unpacked wheel."""
    site = tmp_path_factory.mktemp("site-packages")
    zipfile.ZipFile(from_sdist).extractall(site)
    without = ("GENREC_DATA_DIR", "GENREC_BART_DIR")
    variables = {name: value for name, value in os.environ.items() if name not in without}
    variables["PYTHONPATH"] = str(site)
    variables["GENREC_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    code = "import genrec_jax; print(genrec_jax.__file__)"
    found = subprocess.check_output([sys.executable, "-c", code], cwd="/", env=variables, text=True)
    assert Path(found.strip()).is_relative_to(site)
    return variables


def test_the_wheel_holds_the_package_and_what_is_shipped_in_it(
    tree: Path, from_sdist: Path, tmp_path: Path
) -> None:
    expected = {str(path.relative_to(tree)) for path in (tree / "genrec_jax").rglob("*.py")}
    for folder in ("configs", "third_party"):
        files = [path for path in (tree / folder).rglob("*") if path.is_file()]
        assert files
        expected |= {f"genrec_jax/{path.relative_to(tree)}" for path in files}
    assert modules(from_sdist) == expected
    assert modules(wheel(tree, tmp_path / "wheel")) == expected


def run(environment: dict[str, str], cwd: Path, *command: str) -> str:
    """Standard output of `python -m genrec_jax.…`, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_from_the_wheel_comes_to_its_end(environment: dict[str, str], tmp_path: Path) -> None:
    # Of all models the one that compiles in the least time.
    others = ("vocab_size", "max_tokens", "pretrain")
    quick = [flag for flag in TINY if not any(key in flag for key in others)]
    run(environment, tmp_path, "genrec_jax.main", f"{CONFIG}:sasrec", *quick)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    folder = tmp_path / "runs" / "quickstart_sasrec"
    result = json.loads((folder / "results.json").read_text())
    assert result["versions"]["genrec_jax"] == genrec_jax.__version__
    assert (folder / "report.html").is_file()


def test_the_wheel_knows_the_named_datasets(environment: dict[str, str], tmp_path: Path) -> None:
    flags = ("--config=configs/beauty.py:small", f"--config.data.dir={tmp_path}")
    done = subprocess.run(
        [sys.executable, "-m", "genrec_jax.main", *flags],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert f"config.data.dir: found no Beauty.txt in {tmp_path}" in done.stderr


@pytest.mark.slow
def test_a_sweep_from_the_wheel_comes_to_its_end(
    environment: dict[str, str], tmp_path: Path
) -> None:
    sweep = "--sweep=configs/sweeps/quickstart.py"
    run(environment, tmp_path, "genrec_jax", "sweep", CONFIG, sweep, "--workers=2", *TINY)
    trials = json.loads((tmp_path / "runs" / "sweeps" / "quickstart" / "trials.json").read_text())
    assert len(trials) == 9
    assert all(trial["test"] for trial in trials)
