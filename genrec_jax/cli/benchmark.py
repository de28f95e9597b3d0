"""Measure speed and memory: `python -m genrec_jax benchmark NAME [--help]`.

Each benchmark prints its measurements together with the machine, versions and shapes.
"""

import importlib
from collections.abc import Sequence

from genrec_jax.cli.names import suggestion
from genrec_jax.core.endings import run_command
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import wants_help

# The modules of genrec_jax/benchmarks. That package may import this one, so that the benchmark to
# run is imported by name.
BENCHMARKS = {
    "train-step": "compare a training step with PyTorch's",
    "decode": "compare top-20 decoding with transformers' generate",
    "prepare": "prepare a dataset of 20 million interactions and make batches from it",
    "tfds": "write and read tensorflow-datasets folders",
    "soak": "check that memory and speed stay constant over many steps",
    "scale": "measure the cost per additional user, item and parameter",
}


def run(argv: Sequence[str]) -> int:
    """Run the benchmark named by `argv[1]` and return its exit code."""
    name = argv[1] if len(argv) > 1 else ""
    if not name or (name.startswith("-") and wants_help(argv)):
        width = max(map(len, BENCHMARKS))
        lines = (f"  {one:{width}}  {about}" for one, about in BENCHMARKS.items())
        print("\n".join(["python -m genrec_jax benchmark NAME [--help]", "", *lines]))
        return 0
    if name not in BENCHMARKS:
        raise InputError(f"{name}: no such benchmark{suggestion(name, BENCHMARKS)}")
    module = importlib.import_module(f"genrec_jax.benchmarks.{name.replace('-', '_')}")
    return module.main([f"benchmark {name}", *argv[2:]])


def main(argv: Sequence[str]) -> int:
    """Run the command `benchmark`; `argv[0]` is its name."""
    return run_command(lambda: run(argv))
