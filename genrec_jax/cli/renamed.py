"""Commands that were modules before 0.2.0, and what they are called now."""

import sys
from collections.abc import Sequence

RENAMED = {
    "genrec_jax.data.prepare": "prepare",
    "genrec_jax.data.to_tfds": "to-tfds",
    "genrec_jax.measures.report": "report",
    "genrec_jax.mix": "ensemble",
    "genrec_jax.model.convert": "export",
    "genrec_jax.sweep": "sweep",
}


def refuse_old_command(command_line: Sequence[str]) -> None:
    """End the process with one line if it was started with the module of a renamed command.

    Args:
        command_line: `sys.orig_argv`, with the module that `python -m` is to run.
    """
    modules = [word.removeprefix("-m") for word in command_line[1:]]
    module = next((word for word in modules if word.startswith("genrec_jax")), "")
    if module in RENAMED:
        now = f"python -m genrec_jax {RENAMED[module]}"
        print(f"error: python -m {module}: no such command, use {now}", file=sys.stderr)
        sys.exit(2)
