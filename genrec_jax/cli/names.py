"""The commands of `python -m genrec_jax`, and the names that they are not called by any more."""

import difflib
from collections.abc import Mapping

COMMANDS = {
    "train": "pretrain, finetune and test a model",
    "evaluate": "rank a split with a run's checkpoint and print its metrics",
    "recommend": "write top-k recommendations for all users or a file of histories",
    "audit": "test whether a dataset's item numbering leaks the test items",
    "prepare": "turn an interaction log into a dataset that training reads",
    "sweep": "run many settings with several seeds, or search over ranges",
    "ensemble": "combine a finished run with the item-transition kNN",
    "export": "write a run as a Hugging Face folder",
    "report": "print the paper's tables with our runs beside them",
    "to-tfds": "write a dataset for tensorflow-datasets",
    "benchmark": "measure speed and memory",
}

MODES = ("train", "evaluate", "recommend", "audit")  # of `python -m genrec_jax.main`

# What one may type, or what was a module before 0.2.0 → the command.
RENAMED = {
    "convert": "export",
    "data.prepare": "prepare",
    "data.prepare.prepare": "prepare",
    "data.tfds_export": "to-tfds",
    "data.to_tfds": "to-tfds",
    "measures.report": "report",
    "mix": "ensemble",
    "model.convert": "export",
    "models.convert": "export",
    "models.export": "export",
    "serving.bulk": "recommend",
    "sweeps.sweep": "sweep",
    "to_tfds": "to-tfds",
    "tfds": "to-tfds",
    "training.train": "train",
}


def nearest(name: str, known: Mapping[str, str], renamed: Mapping[str, str] | None = None) -> str:
    """What to add to a message on an unknown name: the one that was meant, or all there are."""
    if renamed and name in renamed:
        return f", use {renamed[name]}"
    if near := difflib.get_close_matches(name.replace("_", "-"), known, n=1, cutoff=0.7):
        return f"; did you mean {near[0]}?"
    return f", expected one of {', '.join(known)}"
