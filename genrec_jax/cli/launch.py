"""From a command line to its command, for `python -m genrec_jax` and `python -m genrec_jax.main`.

Everything, the imports included, happens inside `run_command`, so that whatever goes wrong ends in
one line and an exit code.
"""

from collections.abc import Sequence

from genrec_jax.cli.command import load_command
from genrec_jax.cli.names import COMMANDS, MODES, RENAMED, nearest
from genrec_jax.core.endings import EXIT_CODES, run_command
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import HELP, given, wants_help

MODULE = "python -m genrec_jax"
USAGE = "\n".join(
    [
        f"{MODULE} COMMAND [--help]",
        "",
        *(f"  {name:<10} {about}" for name, about in COMMANDS.items()),
        "",
        f"{MODULE}.main --mode={'|'.join(MODES)} is the same as the first four.",
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
        "Without --mode, train. --mode=MODE --help lists the flags of a mode.",
        f"{MODULE} --help lists the other commands.",
        "",
        EXIT_CODES,
    ]
)


def by_name(argv: Sequence[str]) -> int:
    """Run the command that `argv[1]` names with the arguments after it; returns its exit code."""
    return run_command(lambda: _by_name(argv))


def _by_name(argv: Sequence[str]) -> int:
    name = argv[1] if len(argv) > 1 else HELP[0]
    if name in (*HELP, "help"):
        print(USAGE)
        return 0
    if name.startswith("-"):
        raise InputError(f"{name}: expected a command first, one of {', '.join(COMMANDS)}")
    if name not in COMMANDS:
        raise InputError(f"{name}: no such command{nearest(name, COMMANDS, RENAMED)}")
    return load_command(name)([name, *argv[2:]])


def by_mode(argv: Sequence[str]) -> int:
    """Run the command that --mode names, train without it; returns its exit code."""
    return run_command(lambda: _by_mode(argv))


def _by_mode(argv: Sequence[str]) -> int:
    if argv and argv[0].startswith("--"):
        raise InputError(f"{argv[0]}: expected the program's name before it, as in sys.argv")
    first = argv[1] if len(argv) > 1 else ""
    if first in COMMANDS:
        one_mode = f"--mode={first}, or " if first in MODES else ""
        raise InputError(f"{first}: not a flag, expected {one_mode}{MODULE} {first}")
    mode = given(argv, "mode")
    if mode is None and wants_help(argv):
        print(USAGE_OF_MODES)
        return 0
    mode = "train" if mode is None else mode
    if mode not in MODES:
        raise InputError(f"--mode={mode}: no such mode, expected one of {', '.join(MODES)}")
    return load_command(mode)([mode, *_without_mode(argv[1:])])


def _without_mode(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in ("--mode", "-mode"):
            next(words, None)  # its value
        elif not word.startswith(("--mode=", "-mode=")):
            kept.append(word)
    return kept
