"""A command: its flags, its help, its work, and how it ends.

A command's module imports nothing heavy at the top: flags and config keys are checked, and --help
is printed, before JAX is imported. Its `run` imports what does the work.
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

if TYPE_CHECKING:  # needs ml_collections, which only commands with a config do
    from genrec_jax.core.config_flags import ConfigSource


@dataclass(frozen=True)
class Command:
    """A command of `python -m genrec_jax`; called with its command line, it returns the exit code.

    Attributes:
        name: as on the command line.
        usage: what follows the name, for --help.
        text: the rest of --help.
        run: does the work, with the flags' values as attributes; may return an exit code.
        flags: all but --config.
        config: where the command's config comes from; None if it has none.
        positional: whether words that are no flags are allowed; they are `.positional`.
        interrupted: the line for Ctrl-C.
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
        """Do the work; `argv` has the command's name first."""
        with logging_to_console():
            return run_command(lambda: self._run(argv), self.interrupted, is_reported)

    def _run(self, argv: Sequence[str]) -> int | None:
        if wants_help(argv):
            print(
                help_text(f"python -m genrec_jax {self.name} {self.usage}", self.text, self.flags)
            )
            return 0
        return self.run(self.parse(argv))

    def parse(self, argv: Sequence[str]) -> SimpleNamespace:
        """The values of the flags and the checked config. Raises InputError."""
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
    """The command of a name in COMMANDS."""
    return importlib.import_module(f"genrec_jax.cli.{name.replace('-', '_')}").main


def _flag_names(name: str) -> set[str]:
    command = load_command(name)
    return {flag.name for flag in command.flags} if isinstance(command, Command) else set()


def is_reported(error: BaseException) -> bool:
    """Whether this process prints the line for an error; of several, one does."""
    processes = sys.modules.get("genrec_jax.core.processes")  # which imports JAX
    return processes is None or processes.is_to_be_told(error)
