"""Checkpoints: copying, retention, damage, full disks and killed processes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import Small

from genrec_jax.core.errors import InputError, NotFiniteError
from genrec_jax.runs.checkpoint import PARTS, Checkpoints
from genrec_jax.runs.train_state import TrainState
from genrec_jax.training.multi_step import MultiStepTrainer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def checkpoints(folder: Path) -> Iterator[Checkpoints]:
    with Checkpoints(folder) as opened:
        yield opened


def host(tree: Any) -> list[np.ndarray]:
    """Return host copies, which buffer donation cannot change."""
    return [np.array(leaf, copy=True) for leaf in jax.tree.leaves(tree)]


def save(checkpoints: Checkpoints, state: TrainState, steps: dict[int, int | None]) -> None:
    """Save a checkpoint for each step, with the best step that it records."""
    for step, best in steps.items():
        checkpoints.save(step, state, {"step": step, "best_step": best})
    checkpoints.wait()


def test_a_save_is_not_affected_by_further_training(
    small: Small, trainer: MultiStepTrainer, checkpoints: Checkpoints
) -> None:
    state, _ = small.train(trainer, 3)
    for step in range(3, 6):
        before = host(state)
        checkpoints.save(step, state, {"step": step, "best_step": None})
        state, _ = small.train(trainer, step + 1, state)  # donates the state that is being written
        restored = checkpoints_state(checkpoints, step, small)
        for found, expected in zip(host(restored), before, strict=True):
            assert found.tobytes() == expected.tobytes()


def checkpoints_state(checkpoints: Checkpoints, step: int, small: Small) -> TrainState:
    checkpoints.wait()
    like = jax.eval_shape(small.start)
    return checkpoints.state(step, like._replace(step=jnp.asarray(step, jnp.int32)))


def test_the_latest_checkpoints_and_their_best_ones_are_kept(
    small: Small, checkpoints: Checkpoints, folder: Path
) -> None:
    state = small.start()
    save(checkpoints, state, {1: None, 2: 2, 3: 2, 4: 2, 5: 5})
    assert checkpoints.steps() == [2, 4, 5]  # the best checkpoint of 4 is 2
    save(checkpoints, state, {6: 5, 7: 5})
    assert checkpoints.steps() == [5, 6, 7]
    assert checkpoints.best() == 5
    with Checkpoints(folder, keep=1) as fewer:
        save(fewer, state, {8: 5})
        assert fewer.steps() == [5, 8]
    checkpoints.amend(8, {"step": 8, "best_step": 8})
    assert checkpoints.best() == 8
    assert checkpoints.newest_intact() == 8


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "cut":
        path.write_bytes(content[:middle])
    elif how == "flipped":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.unlink()


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("how", ["cut", "flipped", "lost"])
@pytest.mark.parametrize("part", [*PARTS, "checkpoint.json"])
def test_a_damaged_checkpoint_is_quarantined_and_the_previous_one_is_used(
    part: str,
    how: str,
    small: Small,
    checkpoints: Checkpoints,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save(checkpoints, small.start(), {1: None, 2: None})
    path = folder / "2" / part
    path = largest(path) if path.is_dir() else path
    damage(path, how)
    assert checkpoints.newest_intact() == 1
    assert str(path) in caplog.text
    assert "the checkpoint of step 2 is damaged and was quarantined as 2.damaged" in caplog.text
    assert "using the checkpoint of step 1" in caplog.text
    assert checkpoints.steps() == [1]
    assert (folder / "2.damaged").is_dir()


def test_loading_parameters_checks_only_parameters(
    small: Small, checkpoints: Checkpoints, folder: Path
) -> None:
    state = small.start()
    save(checkpoints, state, {1: None})
    like = jax.eval_shape(small.start).params
    damage(largest(folder / "1" / "opt_state"), "cut")
    checkpoints.params(1, like)  # the optimizer state is not read
    path = largest(folder / "1" / "params")
    damage(path, "flipped")
    with pytest.raises(InputError, match=r"found \d+ bytes with sha256") as error:
        checkpoints.params(1, like)
    assert str(path) in str(error.value)


def test_all_checkpoints_are_damaged(small: Small, checkpoints: Checkpoints, folder: Path) -> None:
    save(checkpoints, small.start(), {1: 1, 2: 1, 3: 1})
    damage(largest(folder / "1" / "params"), "cut")  # the best checkpoint of all three
    with pytest.raises(InputError, match="found only damaged checkpoints") as error:
        checkpoints.newest_intact()
    assert str(folder / "1") in str(error.value)
    assert checkpoints.steps() == [1, 2, 3]


def test_a_state_with_infinite_values_is_not_saved(small: Small, checkpoints: Checkpoints) -> None:
    state = small.start()
    save(checkpoints, state, {1: None})
    leaves, tree = jax.tree.flatten(state.params)
    leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].set(jnp.inf)
    with pytest.raises(NotFiniteError, match="after step 2"):
        checkpoints.save(2, state._replace(params=jax.tree.unflatten(tree, leaves)), {})
    assert checkpoints.steps() == [1]


# In a subprocess, because orbax's threads also meet the full disk: objects that they leave would
# raise warnings in a later test, when they are garbage-collected.
FULL_DISK = """
import os, resource, sys
from pathlib import Path
import jax.numpy as jnp
import numpy as np
from genrec_jax.core.errors import DiskError
from genrec_jax.runs.checkpoint import Checkpoints
from genrec_jax.runs.train_state import TrainState

folder = Path(sys.argv[1])
numbers = np.random.default_rng(0).normal(size=(300, 100))  # cannot be compressed much
table = {"table": jnp.asarray(numbers, jnp.float32)}
state = TrainState(jnp.zeros((), jnp.int32), table, table)
checkpoints = Checkpoints(folder)

def save(step):
    checkpoints.save(step, state, {"step": step, "best_step": None})
    checkpoints.wait()

save(1)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # maximum file size
try:
    save(2)
except DiskError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
print(checkpoints.steps(), checkpoints.newest_intact())
save(2)  # the threads of the failed save may still be running
print(checkpoints.steps(), checkpoints.newest_intact())
sys.stdout.flush()
os._exit(0)
"""


def test_a_full_disk_leaves_complete_checkpoints(folder: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    error, after_failure, after_retry = done.stdout.splitlines()
    assert error.startswith(f"{folder / '2'}: cannot be written: ")
    assert error.endswith("existing checkpoints: 1")
    assert after_failure == "[1] 1"
    assert after_retry == "[1, 2] 2"
    with Checkpoints(folder) as opened:
        opened.clean()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_leftovers_of_a_killed_process_are_removed(
    small: Small, checkpoints: Checkpoints, folder: Path
) -> None:
    save(checkpoints, small.start(), {1: None})
    for name in ("2.writing", "2.writing.orbax-checkpoint-tmp", "0.deleting"):
        (folder / name / "params").mkdir(parents=True)
    assert checkpoints.steps() == [1]
    checkpoints.clean()
    assert [path.name for path in folder.iterdir()] == ["1"]
    metadata = json.loads((folder / "1" / "checkpoint.json").read_text())
    assert metadata["run"] == {"step": 1, "best_step": None}
