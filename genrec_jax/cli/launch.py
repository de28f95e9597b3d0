"""Find and run the command of a command line.

`by_name` serves `python -m genrec_jax`; `by_mode` serves `python -m genrec_jax.main`. Everything,
including the imports, runs inside `run_command`, so that every failure ends in one line and an exit
code.
"""

from collections.abc import Sequence

from genrec_jax.cli.command import load_command
from genrec_jax.cli.names import COMMANDS, MODES, RENAMED, suggestion
from genrec_jax.core.endings import EXIT_CODES, run_command
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import HELP, flag_value, wants_help

MODULE = "python -m genrec_jax"
USAGE = "\n".join(
    [
        f"{MODULE} COMMAND [--help]",
        "",
        *(f"  {name:<10} {about}" for name, about in COMMANDS.items()),
        "",
        f"{MODULE} COMMAND --help lists the flags of a command.",
        f"{MODULE}.main --mode={'|'.join(MODES)} runs the first four, too.",
        "",
        EXIT_CODES,
    ]
)
USAGE_OF_MODES = "\n".join(
    [
        f"{MODULE}.main --config=configs/NAME.py[:variant] [--mode=MODE] [--help]",
        "",
        *(f"  --mode={name:<10} {COMMANDS[name]}" for name in MODES),
        "",
        "The default mode is train. --mode=MODE --help lists the flags of a mode.",
        f"{MODULE} --help lists all commands.",
        "",
        EXIT_CODES,
    ]
)


def by_name(argv: Sequence[str]) -> int:
    """Run the command named by `argv[1]` and return its exit code.

    Args:
        argv: the command line: the program's name, the command's name and its arguments.
    """
    return run_command(lambda: _by_name(argv))


def _by_name(argv: Sequence[str]) -> int:
    name = argv[1] if len(argv) > 1 else HELP[0]
    if name in (*HELP, "help"):
        print(USAGE)
        return 0
    if name.startswith("-"):
        raise InputError(f"{name}: expected a command first, one of {', '.join(COMMANDS)}")
    if name not in COMMANDS:
        raise InputError(f"{name}: no such command{suggestion(name, COMMANDS, RENAMED)}")
    return load_command(name)([name, *argv[2:]])


def by_mode(argv: Sequence[str]) -> int:
    """Run the command named by --mode, or `train` without that flag, and return its exit code.

    Args:
        argv: the command line, with the program's name first.
    """
    return run_command(lambda: _by_mode(argv))


def _by_mode(argv: Sequence[str]) -> int:
    if argv and argv[0].startswith("--"):
        raise InputError(f"{argv[0]}: expected the program's name before it, as in sys.argv")
    first = argv[1] if len(argv) > 1 else ""
    if first in COMMANDS:
        with_mode = f"--mode={first}, or " if first in MODES else ""
        raise InputError(f"{first}: not a flag, expected {with_mode}{MODULE} {first}")
    mode = flag_value(argv, "mode")
    if mode is None and wants_help(argv):
        print(USAGE_OF_MODES)
        return 0
    mode = "train" if mode is None else mode
    if mode not in MODES:
        raise InputError(f"--mode={mode}: no such mode, expected one of {', '.join(MODES)}")
    return load_command(mode)([mode, *_without_mode(argv[1:])])


def _without_mode(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument in ("--mode", "-mode"):
            next(remaining, None)  # skip its value
        elif not argument.startswith(("--mode=", "-mode=")):
            kept.append(argument)
    return kept
