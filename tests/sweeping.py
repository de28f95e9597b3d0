"""Small sweeps for tests, as files, and how they are run."""

from pathlib import Path

from tiny_run import CONFIG

from genrec_jax.cli import sweep

ABLATION = """
from genrec_jax.sweeps.spec import Ablation, Setting

def get_sweep():
    return Ablation(
        seeds=(0, 1),
        settings={
            "as it is": Setting(),
            "+ no dropout": Setting({"model.dropout": 0.0}),
        },
    )
"""
SEARCH = """
from genrec_jax.sweeps.spec import Choice, Range, Search

def get_sweep():
    return Search(
        ranges={
            "finetune.learning_rate": Range(1e-4, 1e-2, log=True),
            "finetune.warmup": Choice((0.0, 0.1)),
            "finetune.epochs": Range(1, 3),
        },
        trials=3,
        first_trials=2,
    )
"""


def file(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


def run(workdir: Path, text: str, *flags: str) -> int:
    path = file(workdir.parent, text)
    return sweep.main(["sweep", CONFIG, f"--sweep={path}", f"--workdir={workdir}", *flags])
