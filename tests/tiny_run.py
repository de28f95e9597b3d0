"""A run of some seconds through both phases, in a process of its own, and what it leaves."""

import json
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
from repository import ROOT
from tensorboardX.proto import event_pb2

CONFIG = f"--config={ROOT / 'configs' / 'quickstart.py'}"
EPOCHS = 3  # of each phase, of 10 steps each
RATES = ("_per_second", "input_wait", "share_of_peak")
ARGUMENTS = [
    CONFIG,
    "--config.data.synthetic_users=80",
    "--config.data.synthetic_items=40",
    "--config.model.d_model=16",
    "--config.model.ffn_dim=32",
    "--config.model.vocab_size=64",
    *(f"--config.{phase}.batch_size=8" for phase in ("pretrain", "finetune")),
    *(f"--config.{phase}.epochs={EPOCHS}" for phase in ("pretrain", "finetune")),
    *(f"--config.{phase}.validate_every_steps=15" for phase in ("pretrain", "finetune")),
    "--config.evaluate.users=0",
    "--config.evaluate.batch_size=64",
    "--config.log_every_steps=5",  # so that checkpoints fall between two lines
    "--config.checkpoint_every_steps=7",
    "--config.checkpoint_every_minutes=0",
]


def start(workdir: Path, cache: Path, *changes: str, code: str = "", **options: Any) -> Any:
    """The process of a run.

    Args:
        workdir: of the run.
        cache: of compiled programs, so that a second process is quick.
        changes: flags after those of ARGUMENTS, or instead of them if they hold a --mode.
        code: to run before main.
        options: of Popen.
    """
    script = f"import sys\n{code}\nfrom genrec_jax.main import main\nsys.exit(main(sys.argv))"
    arguments = [*ARGUMENTS, *changes] if not any("--mode" in x for x in changes) else changes
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments, f"--workdir={workdir}"],
        **{
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "cwd": ROOT,
            "env": {**os.environ, "GENREC_CACHE_DIR": str(cache)},
            **options,
        },
    )


def finish(process: Any) -> tuple[int, str, str]:
    """Its exit code, standard output and standard error."""
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def run(workdir: Path, cache: Path, *changes: str, **options: Any) -> tuple[int, str, str]:
    return finish(start(workdir, cache, *changes, **options))


def lines(workdir: Path) -> list[dict[str, Any]]:
    """Of metrics.jsonl, without what depends on the clock."""
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.endswith(RATES)} for line in found]


def events(workdir: Path) -> list[tuple[int, str]]:
    """The (step, name) of every figure in the TensorBoard events, in the order of the files."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        content = path.read_bytes()
        place = 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
            found += [(event.step, value.tag) for value in event.summary.value]
            place += 16 + length
    return found


def checkpoints(workdir: Path) -> list[int]:
    """The steps of those that count as there."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """All of a checkpoint."""
    with warnings.catch_warnings():  # orbax would like to be told of the devices
        warnings.simplefilter("ignore")
        loaded = ocp.load_checkpointables(str(workdir / "checkpoints" / str(step)))
    loaded = {name: loaded[name] for name in ("params", "opt_state")}
    return {jax.tree_util.keystr(k): np.asarray(x) for k, x in jax.tree.leaves_with_path(loaded)}


def check_same(ours: Path, theirs: Path) -> None:
    """Two finished runs differ in nothing but the time they took."""
    last = checkpoints(theirs)[-1]
    assert checkpoints(ours)[-1] == last
    expected = arrays(theirs, last)
    found = arrays(ours, last)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes(), name
    assert lines(ours) == lines(theirs)
    keys = [(line["step"], line["phase"]) for line in lines(ours)]
    assert len(set(keys)) == len(keys)
    assert events(ours) == events(theirs)
    assert len(set(events(ours))) == len(events(ours))
    results = [json.loads((folder / "results.json").read_text()) for folder in (ours, theirs)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]
