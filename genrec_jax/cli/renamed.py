"""`python -m genrec_jax.MODULE`: refused for all modules but genrec_jax.main, with the command.

Most modules would do nothing when run so, with exit code 0; those of before 0.2.0 are gone.
"""

import re
import sys
from collections.abc import Sequence

from genrec_jax.cli.benchmark import BENCHMARKS
from genrec_jax.cli.names import COMMANDS, RENAMED

RUNNABLE = ("genrec_jax", "genrec_jax.__main__", "genrec_jax.main")
# `-m` may follow other short options in one word; -c, -W and -X take a value of their own.
OPTIONS = re.compile(r"-[bBdEhiIOPqRsSuvVx?]*m(?P<module>.*)")


def refuse_module(command_line: Sequence[str]) -> None:
    """End the process with one line if it was started with a module that is no command.

    Args:
        command_line: `sys.orig_argv`.
    """
    module = module_of(command_line)
    if module in RUNNABLE or not module.startswith("genrec_jax."):
        return
    name = module.removeprefix("genrec_jax.")
    last = name.removeprefix("cli.").replace("_", "-")
    if name.startswith("benchmarks.") and (one := last.removeprefix("benchmarks.")) in BENCHMARKS:
        now = f"use python -m genrec_jax benchmark {one}"
    elif command := RENAMED.get(name) or (last if last in COMMANDS else None):
        now = f"use python -m genrec_jax {command}"
    else:
        now = "python -m genrec_jax --help lists the commands"
    print(f"error: python -m {module}: no such command, {now}", file=sys.stderr)
    sys.exit(2)


def module_of(command_line: Sequence[str]) -> str:
    """The module of Python's own `-m`; "" if it was started without."""
    words = iter(command_line[1:])
    for word in words:
        if match := OPTIONS.fullmatch(word):
            return match["module"] or next(words, "")
        if word in ("-W", "-X"):
            next(words, None)
        elif not word.startswith("-") or word == "-c":
            return ""
    return ""
