"""Refuse `python -m genrec_jax.MODULE` for every module except genrec_jax.main.

Most modules would do nothing when run this way and exit with code 0; modules from before 0.2.0 no
longer exist. The message names the command to use instead.
"""

import re
import sys
from collections.abc import Sequence

from genrec_jax.cli.benchmark import BENCHMARKS
from genrec_jax.cli.names import COMMANDS, RENAMED

RUNNABLE = ("genrec_jax", "genrec_jax.__main__", "genrec_jax.main")
# `-m` may be the last of several short options in one argument. -c, -W and -X are not among them,
# because they take a value.
OPTIONS = re.compile(r"-[bBdEhiIOPqRsSuvVx?]*m(?P<module>.*)")


def refuse_module(command_line: Sequence[str]) -> None:
    """Exit with code 2 and a message if the process runs a module that is not a command.

    Args:
        command_line: the command line of the Python process, `sys.orig_argv`.
    """
    module = module_of(command_line)
    if module in RUNNABLE or not module.startswith("genrec_jax."):
        return
    name = module.removeprefix("genrec_jax.")
    last = name.removeprefix("cli.").replace("_", "-")
    if name.startswith("benchmarks.") and (one := last.removeprefix("benchmarks.")) in BENCHMARKS:
        hint = f"use python -m genrec_jax benchmark {one}"
    elif command := RENAMED.get(name) or (last if last in COMMANDS else None):
        hint = f"use python -m genrec_jax {command}"
    else:
        hint = "python -m genrec_jax --help lists the commands"
    print(f"error: python -m {module}: no such command, {hint}", file=sys.stderr)
    sys.exit(2)


def module_of(command_line: Sequence[str]) -> str:
    """Return the module that Python's option `-m` runs, or "" without that option.

    Args:
        command_line: the command line of the Python process, `sys.orig_argv`.
    """
    arguments = iter(command_line[1:])
    for argument in arguments:
        if match := OPTIONS.fullmatch(argument):
            return match["module"] or next(arguments, "")
        if argument in ("-W", "-X"):
            next(arguments, None)
        elif not argument.startswith("-") or argument == "-c":
            return ""
    return ""
