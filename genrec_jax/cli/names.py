"""The names of the commands of `python -m genrec_jax`, and their former names."""

import difflib
from collections.abc import Mapping

COMMANDS = {
    "train": "pretrain, finetune and test a model",
    "evaluate": "rank a split with a run's checkpoint and print its metrics",
    "recommend": "write top-k recommendations for all users or for a file of histories",
    "audit": "test whether a dataset's item numbering leaks test items",
    "prepare": "turn an interaction log into a dataset to train on",
    "sweep": "run many settings with several seeds, or search over ranges",
    "ensemble": "combine a finished run with the item-transition kNN",
    "export": "write a run as a Hugging Face folder",
    "report": "print the paper's tables with your runs added",
    "to-tfds": "write a dataset as a tensorflow-datasets folder",
    "benchmark": "measure speed and memory",
}

MODES = ("train", "evaluate", "recommend", "audit")  # of `python -m genrec_jax.main`

# Modules and commands of versions before 0.2.0, and other likely names, with the current command.
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


def suggestion(
    name: str, known: Mapping[str, str], renamed: Mapping[str, str] | None = None
) -> str:
    """Return a suffix for the message about an unknown name.

    It suggests the current name of a renamed command, else a similar name, else lists all names.

    Args:
        name: the unknown name.
        known: the existing names, with a description of each.
        renamed: former names and their current names.
    """
    if renamed and name in renamed:
        return f", use {renamed[name]}"
    if similar := difflib.get_close_matches(name.replace("_", "-"), known, n=1, cutoff=0.7):
        return f"; did you mean {similar[0]}?"
    return f", expected one of {', '.join(known)}"
