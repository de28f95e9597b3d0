"""Measure speed and memory: `python -m genrec_jax benchmark NAME [--help]`.

Each prints the machine, the versions and the shapes along with its figures.
"""

import importlib
from collections.abc import Sequence

from genrec_jax.cli.names import nearest
from genrec_jax.core.endings import run_command
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import wants_help

# Modules of genrec_jax/benchmarks, which is below this package: nothing is imported here.
BENCHMARKS = {
    "train-step": "a training step beside PyTorch's",
    "decode": "top-20 decoding beside transformers' generate",
    "prepare": "20 million interactions to a prepared dataset and batches",
    "tfds": "writing and reading tensorflow-datasets folders",
    "soak": "whether memory and speed stay flat over many steps",
    "scale": "what one more user, item and parameter costs",
}


def run(argv: Sequence[str]) -> int:
    name = argv[1] if len(argv) > 1 else ""
    if not name or (name.startswith("-") and wants_help(argv)):
        width = max(map(len, BENCHMARKS))
        lines = (f"  {one:{width}}  {about}" for one, about in BENCHMARKS.items())
        print("\n".join(["python -m genrec_jax benchmark NAME [--help]", "", *lines]))
        return 0
    if name not in BENCHMARKS:
        raise InputError(f"{name}: no such benchmark{nearest(name, BENCHMARKS)}")
    module = importlib.import_module(f"genrec_jax.benchmarks.{name.replace('-', '_')}")
    return module.main([f"benchmark {name}", *argv[2:]])


def main(argv: Sequence[str]) -> int:
    return run_command(lambda: run(argv))
