"""Parse `--config=FILE[:variant]` and `--config.KEY=VALUE` into a checked config.

A config file returns an ml_collections ConfigDict, whose keys become flags. ConfigDict is used in
this module only; all other modules use the frozen dataclass. Only commands and sweeps import this
module, because ml_collections is not installed on every machine that trains or ranks.
"""

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from genrec_jax.core.config_fields import check_key, flat
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import Flag, flag_value, plain_message, read_flags
from genrec_jax.core.moved import moved_hint
from genrec_jax.core.shipped import find_config


@dataclass(frozen=True)
class ConfigSource:
    """The kind of config that a command takes, and where it is read from.

    Attributes:
        build: converts nested mappings into the checked config.
        kinds: default instances of the dataclasses that the config may be, whose keys become flags.
        file: the form of --config's value, for messages; "" if the command takes no config file.
        stored: reads the config from the directory given by --workdir, as nested mappings; None if
            the command does not read a config from there.
        group: the group of keys that flags may change, such as "evaluate"; "" if all keys may
            change.
        fixed: keys that no flag may change, each with the alternative to suggest in the message.
        check_keys: raises InputError for a key that the config does not have, if it can explain
            more than that the key does not exist. Called with the keys and with the config as
            nested mappings.
    """

    build: Callable[[Mapping[str, Any]], Any]
    kinds: Sequence[Any]
    file: str = ""
    stored: Callable[[Path], Mapping[str, Any]] | None = None
    group: str = ""
    fixed: Mapping[str, str] = field(default_factory=dict)
    check_keys: Callable[[Collection[str], Mapping[str, Any]], None] | None = None

    @property
    def expected(self) -> tuple[str, ...]:
        """The flags that can name the config, as written in messages."""
        file = (f"--config={self.file}",) if self.file else ()
        return (*file, *(("--workdir=DIR",) if self.stored else ()))

    @property
    def flag_names(self) -> tuple[str, ...]:
        """The names of the flags that can name the config."""
        return ("config", "workdir") if self.stored else ("config",)

    @property
    def documented_flags(self) -> tuple[Flag, ...]:
        """The flags that a config adds to --help; `parse_config` parses them itself."""
        name = f"config.{self.group}" if self.group else "config"
        change = Flag(f"{name}.KEY", f"Set a key of {name}; may be repeated.", expected="VALUE")
        if not self.file:
            return (change,)
        text = f"The config file, such as {self.file}."
        if self.stored is not None:
            text += " If it is not given, the config stored in --workdir is used."
        return (Flag("config", text, expected="FILE[:variant]"), change)


def parse_config(
    argv: Sequence[str],
    source: ConfigSource,
    declared: Sequence[Flag] = (),
    positional: bool = False,
) -> SimpleNamespace:
    """Parse the command line of a command that has a config.

    Args:
        argv: the command line, with the command's name first.
        source: the kind of config that the command takes.
        declared: the command's other flags.
        positional: whether arguments that are not flags are allowed.

    Returns:
        The values of the declared flags as returned by `read_flags`, the checked `config`, and
        `config_file`, the FILE[:variant] given by --config, or None if the config was read from
        --workdir.

    Raises:
        InputError: a key does not exist, the config file is missing or fails, no config is given,
            a value is not allowed, or `read_flags` raises it.
    """
    _check_keys(argv, source)
    logging.getLogger("absl").setLevel(logging.ERROR)  # hide absl's warnings on errors
    file, workdir = flag_value(argv, "config"), flag_value(argv, "workdir")
    values, changes = flags.FlagValues(), _without_file(argv)
    content = None
    if file is not None:
        content = _load(file, source)
    elif source.stored and workdir:
        content = ConfigDict(source.stored(Path(workdir)))
    if content is not None:
        _check_changed_keys(argv, source, content)
        config_flags.DEFINE_config_dict("config", content, flag_values=values, sys_argv=changes)
    try:
        arguments = read_flags(values, changes, declared, positional)
    except InputError:
        raise
    except (flags.Error, ValueError, TypeError) as error:  # a value of the wrong type
        raise InputError(plain_message(str(error).strip().splitlines()[-1])) from None
    if content is None:
        raise InputError(f"--config: found none, expected {' or '.join(source.expected)}")
    try:
        arguments.config = source.build(content.to_dict())  # parsing has applied the changes to it
    except InputError as error:
        if len(_config_keys(argv)) > (file is not None):  # a --config.KEY flag may be the cause
            raise
        raise InputError(f"{' '.join(_source_flag(argv, source))}: {error}") from None
    arguments.config_file = file
    return arguments


def _config_keys(argv: Sequence[str]) -> list[tuple[str, str]]:
    """Return each --config argument with its key: `config` itself, or `config.a.b`."""
    matches = [
        (argument, re.match(r"--?(?:no)?(config(?:\.[^=]*)?)(?:=|$)", argument))
        for argument in argv[1:]
    ]
    return [(argument, match[1]) for argument, match in matches if match]


def _check_keys(argv: Sequence[str], source: ConfigSource) -> None:
    """Raise InputError for a --config flag that the command does not take, without reading files.

    Without a config to change, any --config.KEY flag is an error.
    """
    if (times := sum(re.match(r"--?config(=|$)", argument) is not None for argument in argv)) > 1:
        raise InputError(f"--config: found it {times} times, expected once")
    has_config = any(flag_value(argv, name) is not None for name in source.flag_names)
    for argument, key in _config_keys(argv):
        if source.group and not key.startswith(f"config.{source.group}."):
            raise InputError(
                f"{argument}: not a flag of this command, expected "
                f"--config.{source.group}.KEY=VALUE"
            )
        if key == "config":
            continue
        if not has_config:
            check_key(key, set().union(*(flat(asdict(kind)) for kind in source.kinds)))
            raise InputError(
                f"{argument}: found no config to change, expected {' or '.join(source.expected)}"
            )


def _check_changed_keys(argv: Sequence[str], source: ConfigSource, content: ConfigDict) -> None:
    """Raise InputError for a flag whose key this config does not have or does not allow to change.

    Args:
        argv: the command line.
        source: the kind of config that the command takes.
        content: the config before the changes.
    """
    known = flat(content.to_dict())
    for argument, key in _config_keys(argv):
        if key == "config":
            continue
        if source.check_keys is not None:
            source.check_keys([key], content.to_dict())
        check_key(key, known)
        if key in source.fixed and argument.partition("=")[2] != str(known[key]):
            raise InputError(
                f"{argument}: cannot be changed from {known[key]!r}, expected {source.fixed[key]}"
            )


def _source_flag(argv: Sequence[str], source: ConfigSource) -> list[str]:
    """Return the flag that names the config, as given on the command line; empty if none does."""
    given = [(name, flag_value(argv, name)) for name in source.flag_names]
    return [f"--{name}={value}" for name, value in given if value is not None][:1]


def _without_file(argv: Sequence[str]) -> list[str]:
    """Return a command line without its `--config=FILE` or `--config FILE`."""
    kept: list[str] = []
    is_value = False
    for argument in argv:
        if not is_value and not re.match(r"--?config(=|$)", argument):
            kept.append(argument)
        is_value = re.fullmatch(r"--?config", argument) is not None
    return kept


def _load(file: str, source: ConfigSource) -> ConfigDict:
    """Load a config file and return the result of its `get_config`.

    Args:
        file: the FILE[:variant] given by --config.
        source: the kind of config that the command takes.

    Raises:
        InputError: the file does not exist or fails, or its config is not of the expected kind.
    """
    flag = f"--config={find_config(file)}"
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=[flag])
    try:
        values(["", flag])
        config: Any = values["config"].value
        hasattr(config, "to_dict")  # raises the file's own exception, if that was an OSError
    except AttributeError as error:
        if "has no attribute 'get_config'" not in str(error):
            raise InputError(f"--config={file}: {_failure(f'AttributeError: {error}')}") from None
        raise InputError(f"--config={file}: found no get_config(), expected one") from None
    except (Exception, SystemExit) as error:  # a config file is code and may raise any exception
        kind = "" if isinstance(error, flags.Error) else f"{type(error).__name__}: "
        raise InputError(f"--config={file}: {_failure(f'{kind}{error}')}") from None
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config={file}: get_config returned a {type(config).__name__}, expected a ConfigDict"
        )
    expected = {one.name for kind in source.kinds for one in fields(kind)}
    unknown = set(config) - expected
    if len(unknown) > len(set(config)) / 2:  # a single misspelt key is reported by `check_key`
        raise InputError(
            f"--config={file}: not a config of this command: found the keys "
            f"{', '.join(sorted(unknown)[:3])}, …, expected those of {source.file}"
        )
    return config


FRAME = re.compile(r"^\s")  # a line of a traceback other than the exception itself


def _failure(text: str) -> str:
    """Describe the exception that a config file raised.

    Args:
        text: the exception's message, which may contain a whole traceback that ends with it.
    """
    lines = text.strip().splitlines()
    start = max((i + 1 for i, line in enumerate(lines) if FRAME.match(line)), default=0)
    message = " ".join(lines[start:]) or lines[-1].strip()
    prefix = f"{InputError.__module__}.InputError: "
    if message.startswith(prefix):
        return message.removeprefix(prefix)
    return f"the file fails with {plain_message(message)}{moved_hint(message)}"
