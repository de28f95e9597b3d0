"""Checkpoints: copied before the next step, kept, found damaged, and never half there."""

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
from genrec_jax.training.resident import ResidentTrainer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def checkpoints(folder: Path) -> Iterator[Checkpoints]:
    with Checkpoints(folder) as opened:
        yield opened


def host(tree: Any) -> list[np.ndarray]:
    """Copies that no donation can change."""
    return [np.array(leaf, copy=True) for leaf in jax.tree.leaves(tree)]


def save(checkpoints: Checkpoints, state: TrainState, steps: dict[int, int | None]) -> None:
    """Checkpoints of some steps, each with the step that it holds for the best."""
    for step, best in steps.items():
        checkpoints.save(step, state, {"step": step, "best_step": best})
    checkpoints.wait()


def test_a_save_is_what_the_state_was_although_training_goes_on(
    small: Small, trainer: ResidentTrainer, checkpoints: Checkpoints
) -> None:
    state, _ = small.train(trainer, 3)
    for step in range(3, 6):
        before = host(state)
        checkpoints.save(step, state, {"step": step, "best_step": None})
        state, _ = small.train(trainer, step + 1, state)  # donates what is being written
        restored = checkpoints_state(checkpoints, step, small)
        for found, expected in zip(host(restored), before, strict=True):
            assert found.tobytes() == expected.tobytes()


def checkpoints_state(checkpoints: Checkpoints, step: int, small: Small) -> TrainState:
    checkpoints.wait()
    like = jax.eval_shape(small.start)
    return checkpoints.state(step, like._replace(step=jnp.asarray(step, jnp.int32)))


def test_the_latest_and_the_best_that_they_know_are_kept(
    small: Small, checkpoints: Checkpoints, folder: Path
) -> None:
    state = small.start()
    save(checkpoints, state, {1: None, 2: 2, 3: 2, 4: 2, 5: 5})
    assert checkpoints.steps() == [2, 4, 5]  # 4 would go back to 2
    save(checkpoints, state, {6: 5, 7: 5})
    assert checkpoints.steps() == [5, 6, 7]
    assert checkpoints.best() == 5
    with Checkpoints(folder, keep=1) as fewer:
        save(fewer, state, {8: 5})
        assert fewer.steps() == [5, 8]
    checkpoints.amend(8, {"step": 8, "best_step": 8})
    assert checkpoints.best() == 8
    assert checkpoints.newest_whole() == 8


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
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
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
    assert checkpoints.newest_whole() == 1
    assert str(path) in caplog.text
    assert "the checkpoint of step 2 is damaged and set aside as 2.damaged" in caplog.text
    assert "the one of step 1 is used" in caplog.text
    assert checkpoints.steps() == [1]
    assert (folder / "2.damaged").is_dir()


def test_what_serving_reads_is_checked(
    small: Small, checkpoints: Checkpoints, folder: Path
) -> None:
    state = small.start()
    save(checkpoints, state, {1: None})
    like = jax.eval_shape(small.start).params
    damage(largest(folder / "1" / "opt_state"), "cut")
    checkpoints.params(1, like)  # serving needs no optimizer
    path = largest(folder / "1" / "params")
    damage(path, "flipped")
    with pytest.raises(InputError, match=r"found \d+ bytes with sha256") as told:
        checkpoints.params(1, like)
    assert str(path) in str(told.value)


def test_none_is_whole(small: Small, checkpoints: Checkpoints, folder: Path) -> None:
    save(checkpoints, small.start(), {1: 1, 2: 1, 3: 1})
    damage(largest(folder / "1" / "params"), "cut")  # the best: the run could not be finished
    with pytest.raises(InputError, match="none of the checkpoints is whole") as told:
        checkpoints.newest_whole()
    assert str(folder / "1") in str(told.value)
    assert checkpoints.steps() == [1, 2, 3]


def test_a_state_that_is_not_finite_is_not_saved(small: Small, checkpoints: Checkpoints) -> None:
    state = small.start()
    save(checkpoints, state, {1: None})
    leaves, tree = jax.tree.flatten(state.params)
    leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].set(jnp.inf)
    with pytest.raises(NotFiniteError, match="after step 2"):
        checkpoints.save(2, state._replace(params=jax.tree.unflatten(tree, leaves)), {})
    assert checkpoints.steps() == [1]


# In a process of its own: orbax's threads meet the full disk too, and what they leave behind would
# complain in whatever test runs when it is collected.
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
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # no file may be longer
try:
    save(2)
except DiskError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
print(checkpoints.steps(), checkpoints.newest_whole())
save(2)  # although those threads may not have ended yet
print(checkpoints.steps(), checkpoints.newest_whole())
sys.stdout.flush()
os._exit(0)
"""


def test_a_full_disk_leaves_what_was_whole(folder: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    told, after, again = done.stdout.splitlines()
    assert told.startswith(f"{folder / '2'}: cannot be written: ")
    assert told.endswith("there: 1")
    assert after == "[1] 1"
    assert again == "[1, 2] 2"
    with Checkpoints(folder) as opened:
        opened.clean()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_what_a_killed_process_left_is_removed(
    small: Small, checkpoints: Checkpoints, folder: Path
) -> None:
    save(checkpoints, small.start(), {1: None})
    for name in ("2.writing", "2.writing.orbax-checkpoint-tmp", "0.deleting"):
        (folder / name / "params").mkdir(parents=True)
    assert checkpoints.steps() == [1]
    checkpoints.clean()
    assert [path.name for path in folder.iterdir()] == ["1"]
    facts = json.loads((folder / "1" / "checkpoint.json").read_text())
    assert facts["run"] == {"step": 1, "best_step": None}
