"""A file lock: one process holds it, the message names that process, and its end releases it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from genrec_jax.core.errors import InputError
from genrec_jax.core.file_lock import locked

HOLD = """
import sys, time
from pathlib import Path
from genrec_jax.core.file_lock import locked
with locked(Path(sys.argv[1]), "x"):
    print("held", flush=True)
    time.sleep(1000)
"""


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    path = tmp_path / "run" / "run.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match="in use by another process") as raised,
            locked(path, "--workdir=run"),
        ):
            pass
        assert f"--workdir=run: in use by another process (pid {holder.pid} on " in str(
            raised.value
        )
        holder.kill()
        holder.wait()
    with locked(path, "--workdir=run"):
        assert path.read_text().startswith(f"pid {os.getpid()} on ")
        with pytest.raises(InputError), locked(path, "--workdir=run"):
            pass
        assert path.exists()
    assert not path.exists()


def test_a_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    with locked(tmp_path / "run" / "run.lock", "x"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine" / "run.lock", "x"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]
