"""A command's flags, declared once: read from the command line, checked, and printed by --help.

absl parses them, since the keys of a config become absl flags too (core/config_flags.py). This
module knows nothing of configs, so that commands without one do without ml_collections.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from absl import flags

from genrec_jax.core.errors import InputError

HELP = ("--help", "-h", "-help")
# absl gives every command these: flags from a file, and names of flags that may be misspelt.
OF_ABSL = re.compile(r"--?(flagfile|undefok)(?:=|$)")


@dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
        name: without dashes in front.
        help: one sentence; "" hides the flag from --help.
        kind: of the value: str, int, float, bool, Path, or a tuple of the words that are allowed.
        default: the value without the flag; None where the command decides.
        expected: the form of the value, for messages and --help, as DIR.
        required: whether a command line without it is an error.
        least: the smallest value of a number that is allowed; None: any.
    """

    name: str
    help: str
    kind: Any = str
    default: Any = None
    expected: str = ""
    required: bool = False
    least: int | None = None

    @property
    def attribute(self) -> str:
        """The name of its value among those that are read."""
        return self.name.replace("-", "_")

    @property
    def usage(self) -> str:
        """As --help writes it: `--workdir=DIR`."""
        if self.kind is bool:
            return f"--{self.name}"
        if isinstance(self.kind, tuple):
            return f"--{self.name}={'|'.join(self.kind)}"
        named = {int: "N", float: "X", Path: "PATH"}
        return f"--{self.name}={self.expected or named.get(self.kind, 'VALUE')}"

    def define(self, values: flags.FlagValues) -> None:
        if isinstance(self.kind, tuple):
            flags.DEFINE_enum(self.name, self.default, self.kind, self.help, values)
            return
        define: Any = {
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            bool: flags.DEFINE_boolean,
        }.get(self.kind, flags.DEFINE_string)
        define(self.name, self.default, self.help, flag_values=values)

    def value(self, values: flags.FlagValues) -> Any:
        """The checked value. Raises InputError if it is missing or empty."""
        found: Any = values[self.name].value
        if found is None and self.required:
            raise InputError(f"--{self.name}: found none, expected {self.usage}")
        if found == "" and (self.kind is Path or self.required):
            raise InputError(f"--{self.name}: found an empty value, expected {self.usage}")
        if self.least is not None and isinstance(found, int | float) and found < self.least:
            raise InputError(f"--{self.name}: found {found}, expected at least {self.least}")
        return Path(str(found)) if self.kind is Path and found is not None else found


def given(argv: Sequence[str], name: str) -> str | None:
    """The value of `--name=value` or `--name value` on a command line; None without the flag.

    Reads the text alone, before any flag is defined. Of several the last counts, as for absl.
    """
    found = None
    for argument, following in zip_longest(argv, argv[1:], fillvalue=""):
        if match := re.fullmatch(rf"--?{name}(?:=(.*))?", argument, re.DOTALL):
            found = following if match[1] is None else match[1]
    return found


def wants_help(argv: Sequence[str]) -> bool:
    return any(argument in HELP for argument in argv[1:])


def read_flags(
    values: flags.FlagValues, argv: Sequence[str], declared: Sequence[Flag], positional: bool
) -> SimpleNamespace:
    """Parse a command line.

    Args:
        values: where the flags are defined; may hold others already.
        argv: the command line, the command's name first.
        declared: the command's flags.
        positional: whether words that are no flags are allowed; they become `.positional`.

    Returns:
        The value of each declared flag by its `attribute`.

    Raises:
        InputError: an unknown flag, an ill-typed value, a missing flag, a stray word.
    """
    for argument in argv[1:]:
        if (match := OF_ABSL.match(argument)) is not None:
            raise UnknownFlag(match[1], [flag.name for flag in declared])
    for flag in declared:
        flag.define(values)
    try:
        words = values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        raise UnknownFlag(error.flagname, list(values)) from None
    except (flags.Error, ValueError) as error:
        if not isinstance(error, flags.Error) and "does not take an argument" not in str(error):
            raise
        if "Traceback" in str(error):  # of a config file, which core/config_flags.py reports
            raise
        raise InputError(plain_message(str(error))) from None
    if words and not positional:
        raise InputError(f"{words[0]}: not a flag, expected --name=value")
    read = {flag.attribute: flag.value(values) for flag in declared}
    return SimpleNamespace(**read, positional=words)


class UnknownFlag(InputError):
    """A flag that the command does not have.

    Attributes:
        name: the flag's.
    """

    def __init__(self, name: str, known: Sequence[str] = (), owners: Sequence[str] = ()):
        """`known` are the command's flags; `owners` other commands that have the flag."""
        self.name = name
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        hint = f"; did you mean --{near[0]}?" if near else ""
        hint = f"; it is a flag of {', '.join(owners)}" if owners else hint
        super().__init__(f"--{name}: no such flag{hint}")


def plain_message(text: str) -> str:
    """absl's message on an ill-typed value, with what was expected in words."""
    text = re.sub(r"invalid literal for int.*", "expected a whole number", text)
    text = re.sub(r"could not convert string to float.*", "expected a number", text)
    text = re.sub(r"\('Non-boolean argument to boolean flag', .*\)", "expected true or false", text)
    text = re.sub(r"^Missing value for flag (\S+)", r"\1: found no value", text)
    return re.sub(r"^flag --", "--", text)


def help_text(usage: str, text: str, declared: Sequence[Flag]) -> str:
    """What --help prints: the command's docstring and a line for each flag."""
    shown = [flag for flag in declared if flag.help]
    width = max((len(flag.usage) for flag in shown if len(flag.usage) < 30), default=0)
    lines = []
    for flag in shown:
        has_default = flag.default is not None and flag.default is not False
        default = f" Default: {flag.default}." if has_default else ""
        gap = "\n" + " " * (width + 2) if len(flag.usage) > width else ""
        lines.append(f"  {flag.usage:{width}}{gap}  {flag.help}{default}")
    return "\n".join([usage, "", text.strip(), *(["", "Flags:"] if lines else []), *lines])
