"""Command-line flags: declared once, then parsed, checked and listed by --help.

Parsing is done by absl, because the keys of a config also become absl flags
(core/config_flags.py). This module does not depend on configs, so that commands without a config
do not import ml_collections.
"""

import difflib
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from absl import flags

from genrec_jax.core.errors import InputError

HELP = ("--help", "-h", "-help")
HELP_COLUMNS = 100
WIDEST_USAGE = 30  # columns; the help of a flag with a longer usage starts on the next line
# Flags that absl defines for every program: flags read from a file, and unknown flags to ignore.
OF_ABSL = re.compile(r"--?(flagfile|undefok)(?:=|$)")


@dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
        name: the flag's name without leading dashes.
        help: a sentence for --help; "" hides the flag from --help.
        kind: the type of the value: str, int, float, bool, Path, or a tuple of allowed words.
        default: the value if the flag is not given; None if the command decides.
        expected: the form of the value in messages and in --help, such as DIR.
        required: whether the flag must be given.
        least: the smallest allowed value of a number; None if there is no limit.
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
        """The attribute that holds the flag's value in the parsed arguments."""
        return self.name.replace("-", "_")

    @property
    def usage(self) -> str:
        """The flag as written in --help, such as `--workdir=DIR`."""
        if self.kind is bool:
            return f"--{self.name}"
        if isinstance(self.kind, tuple):
            return f"--{self.name}={'|'.join(self.kind)}"
        forms = {int: "N", float: "X", Path: "PATH"}
        return f"--{self.name}={self.expected or forms.get(self.kind, 'VALUE')}"

    def define(self, values: flags.FlagValues) -> None:
        """Define the flag in absl's `values`."""
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
        """Return the parsed value. Raises InputError if it is missing, empty or too small."""
        value: Any = values[self.name].value
        if value is None and self.required:
            raise InputError(f"--{self.name}: found none, expected {self.usage}")
        if value == "" and (self.kind is Path or self.required):
            raise InputError(f"--{self.name}: found an empty value, expected {self.usage}")
        if self.least is not None and isinstance(value, int | float) and value < self.least:
            raise InputError(f"--{self.name}: found {value}, expected at least {self.least}")
        return Path(str(value)) if self.kind is Path and value is not None else value


def flag_value(argv: Sequence[str], name: str) -> str | None:
    """Return the value of `--name=value` or `--name value` in a command line.

    Only the text is read, so that no flag needs to be defined yet. If the flag is repeated, the
    last value counts, as in absl.

    Returns:
        The value, or None if the flag is not given.
    """
    value = None
    for argument, following in zip_longest(argv, argv[1:], fillvalue=""):
        if match := re.fullmatch(rf"--?{name}(?:=(.*))?", argument, re.DOTALL):
            value = following if match[1] is None else match[1]
    return value


def wants_help(argv: Sequence[str]) -> bool:
    """Return whether a command line contains --help or one of its short forms."""
    return any(argument in HELP for argument in argv[1:])


def read_flags(
    values: flags.FlagValues, argv: Sequence[str], declared: Sequence[Flag], positional: bool
) -> SimpleNamespace:
    """Parse a command line.

    Args:
        values: absl's container in which the flags are defined; it may already hold other flags.
        argv: the command line, with the command's name first.
        declared: the command's flags.
        positional: whether arguments that are not flags are allowed; they become `.positional`.

    Returns:
        The value of each declared flag under its `attribute`, and `positional`.

    Raises:
        InputError: a flag is unknown or missing, a value has the wrong type, or an argument is not
            a flag.
    """
    for argument in argv[1:]:
        if (match := OF_ABSL.match(argument)) is not None:
            raise UnknownFlag(match[1], [flag.name for flag in declared])
    for flag in declared:
        flag.define(values)
    try:
        positionals = values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        raise UnknownFlag(error.flagname, list(values)) from None
    except (flags.Error, ValueError) as error:
        if not isinstance(error, flags.Error) and "does not take an argument" not in str(error):
            raise
        if "Traceback" in str(error):  # from a config file; core/config_flags.py reports it
            raise
        raise InputError(plain_message(str(error))) from None
    if positionals and not positional:
        raise InputError(f"{positionals[0]}: not a flag, expected --name=value")
    arguments = {flag.attribute: flag.value(values) for flag in declared}
    return SimpleNamespace(**arguments, positional=positionals)


class UnknownFlag(InputError):
    """A flag that the command does not have.

    Attributes:
        name: the flag's name without leading dashes.
    """

    def __init__(self, name: str, known: Sequence[str] = (), owners: Sequence[str] = ()):
        """Create the exception and its message.

        Args:
            name: the unknown flag's name without leading dashes.
            known: the names of the command's flags; the message suggests a similar one.
            owners: other commands that have the flag; the message names them.
        """
        self.name = name
        similar = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        hint = f"; did you mean --{similar[0]}?" if similar else ""
        hint = f"; it is a flag of {', '.join(owners)}" if owners else hint
        super().__init__(f"--{name}: no such flag{hint}")


def plain_message(text: str) -> str:
    """Return absl's message about an ill-typed value with the expected type in plain words."""
    text = re.sub(r"invalid literal for int.*", "expected a whole number", text)
    text = re.sub(r"could not convert string to float.*", "expected a number", text)
    text = re.sub(r"\('Non-boolean argument to boolean flag', .*\)", "expected true or false", text)
    text = re.sub(r"^Missing value for flag (\S+)", r"\1: found no value", text)
    return re.sub(r"^flag --", "--", text)


def help_text(usage: str, text: str, declared: Sequence[Flag]) -> str:
    """Return the text that --help prints.

    Args:
        usage: the form of the command line.
        text: the description, usually the docstring of the command's module.
        declared: the flags to list, with their defaults.
    """
    shown = [flag for flag in declared if flag.help]
    width = max((len(flag.usage) for flag in shown if len(flag.usage) < WIDEST_USAGE), default=0)
    indent = " " * (width + 4)
    lines = []
    for flag in shown:
        has_default = flag.default is not None and flag.default is not False
        default = f" Default: {flag.default}." if has_default else ""
        if len(flag.usage) > width:
            lines.append(f"  {flag.usage}")
            first = indent
        else:
            first = f"  {flag.usage:{width}}  "
        lines += textwrap.wrap(
            f"{flag.help}{default}",
            HELP_COLUMNS,
            initial_indent=first,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join([usage, "", text.strip(), *(["", "Flags:"] if lines else []), *lines])
