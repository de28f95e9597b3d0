"""The `Command` class: a command's flags, help text, work and exit code.

A command's module imports nothing heavy at the top: flags and config keys are checked, and --help
is printed, before JAX is imported. Its function `run` imports what the work needs.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from absl import flags

from genrec_jax.cli.console import logging_to_console
from genrec_jax.cli.names import COMMANDS
from genrec_jax.core.endings import UNWRITTEN, run_command
from genrec_jax.core.flags import Flag, UnknownFlag, help_text, read_flags, wants_help

if TYPE_CHECKING:  # imports ml_collections, which only commands with a config need
    from genrec_jax.core.config_flags import ConfigSource


@dataclass(frozen=True)
class Command:
    """A command of `python -m genrec_jax`. Calling it with a command line returns its exit code.

    Attributes:
        name: the command's name on the command line.
        usage: the form of the arguments after the name, for --help.
        text: the description for --help.
        run: does the work. It is called with the parsed arguments (a value for each flag, `config`
            and `positional`) and may return an exit code.
        flags: the command's flags, without those of its config.
        config: the kind of config that the command takes; None if it has none.
        positional: whether arguments that are not flags are allowed; they become `.positional`.
        interrupted: the line to print after Ctrl-C.
    """

    name: str
    usage: str
    text: str
    run: Callable[[SimpleNamespace], int | None]
    flags: tuple[Flag, ...] = ()
    config: "ConfigSource | None" = None
    positional: bool = False
    interrupted: str = UNWRITTEN

    def __call__(self, argv: Sequence[str]) -> int:
        """Run the command and return its exit code.

        Args:
            argv: the command line, with the command's name first.
        """
        with logging_to_console():
            return run_command(lambda: self._run(argv), self.interrupted, is_reported)

    def _run(self, argv: Sequence[str]) -> int | None:
        if wants_help(argv):
            usage = f"python -m genrec_jax {self.name} {self.usage}"
            print(help_text(usage, self.text, self.documented_flags))
            return 0
        return self.run(self.parse(argv))

    @property
    def documented_flags(self) -> tuple[Flag, ...]:
        """The flags that --help lists, including those of the config."""
        return self.flags if self.config is None else (*self.config.documented_flags, *self.flags)

    def parse(self, argv: Sequence[str]) -> SimpleNamespace:
        """Return the values of the flags and the checked config.

        Raises:
            InputError: the command line or the config is invalid.
        """
        try:
            if self.config is None:
                return read_flags(flags.FlagValues(), argv, self.flags, self.positional)
            from genrec_jax.core.config_flags import parse_config

            return parse_config(argv, self.config, self.flags, self.positional)
        except UnknownFlag as error:
            if owners := [name for name in COMMANDS if error.name in _flag_names(name)]:
                raise UnknownFlag(error.name, owners=owners) from None
            raise


def load_command(name: str) -> Callable[[Sequence[str]], int]:
    """Import and return a command by its name in COMMANDS."""
    return importlib.import_module(f"genrec_jax.cli.{name.replace('-', '_')}").main


def _flag_names(name: str) -> set[str]:
    command = load_command(name)
    return {flag.name for flag in command.flags} if isinstance(command, Command) else set()


def is_reported(error: BaseException) -> bool:
    """Return whether this process prints the line for an error.

    If a command runs in several processes, one of them prints it.
    """
    processes = sys.modules.get("genrec_jax.core.processes")  # importing it would import JAX
    return processes is None or processes.reports_error(error)
