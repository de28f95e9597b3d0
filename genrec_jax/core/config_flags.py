"""`--config=FILE[:variant]` and `--config.KEY=VALUE` → a checked config.

A config file returns an ml_collections ConfigDict, whose keys become flags. ConfigDict ends here:
everything else takes the frozen dataclass. Only commands and sweeps import this module, since not
every machine that computes has ml_collections.
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
from genrec_jax.core.flags import Flag, given, plain_message, read_flags
from genrec_jax.core.moved import moved_hint
from genrec_jax.core.shipped import find_config


@dataclass(frozen=True)
class ConfigSource:
    """What a command's config is and where it comes from.

    Attributes:
        build: nested mappings → the checked config.
        kinds: instances of the dataclasses that a config may be of, whose keys may be flags.
        file: what --config expects, for messages; "" if the command takes none.
        stored: reads the config that the directory of --workdir holds, as nested mappings; None if
            the command reads none there.
        group: the only keys that may be changed, as "evaluate"; "" if all may.
        fixed: keys that no flag may change, and what is expected instead.
        check_keys: raises InputError for a key that a config does not have, given the key and the
            config as nested mappings, where more can be said than that there is no such key.
    """

    build: Callable[[Mapping[str, Any]], Any]
    kinds: Sequence[Any]
    file: str = ""
    stored: Callable[[Path], Mapping[str, Any]] | None = None
    group: str = ""
    fixed: Mapping[str, str] = field(default_factory=dict)
    check_keys: Callable[[Collection[str], Mapping[str, Any]], None] | None = None

    @property
    def places(self) -> str:
        file = [f"--config={self.file}"] if self.file else []
        return " or ".join([*file, *(["--workdir=DIR"] if self.stored else [])])

    @property
    def flag_names(self) -> tuple[str, ...]:
        return ("config", "workdir") if self.stored else ("config",)


def parse_config(
    argv: Sequence[str],
    source: ConfigSource,
    declared: Sequence[Flag] = (),
    positional: bool = False,
) -> SimpleNamespace:
    """Parse a command line whose command has a config.

    Returns:
        The declared flags as of `read_flags`, the checked `config`, and `config_file`, the
        FILE[:variant] as it was given, None where the config came from --workdir.

    Raises:
        InputError: a key that does not exist, a config file that is missing or fails, no config, a
            value that does not fit; and as of `read_flags`.
    """
    _check_keys(argv, source)
    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of what is an error here
    file, workdir = given(argv, "config"), given(argv, "workdir")
    values, changes = flags.FlagValues(), _without_file(argv)
    content = None
    if file is not None:
        content = _load(file, source)
    elif source.stored and workdir:
        content = ConfigDict(source.stored(Path(workdir)))
    if content is not None:
        _check_own_keys(argv, source, content)
        config_flags.DEFINE_config_dict("config", content, flag_values=values, sys_argv=changes)
    try:
        read = read_flags(values, changes, declared, positional)
    except InputError:
        raise
    except (flags.Error, ValueError, TypeError) as error:  # a value of a wrong type
        raise InputError(plain_message(str(error).strip().splitlines()[-1])) from None
    if content is None:
        raise InputError(f"--config: found none, expected {source.places}")
    try:
        read.config = source.build(content.to_dict())  # the flags have changed it
    except InputError as error:
        if len(_config_keys(argv)) > (file is not None):  # a flag may be at fault
            raise
        raise InputError(f"{' '.join(_given(argv, source))}: {error}") from None
    read.config_file = file
    return read


def _config_keys(argv: Sequence[str]) -> list[tuple[str, str]]:
    """Each argument that is a --config flag, and its key: `config`, or `config.a.b`."""
    found = [
        (argument, re.match(r"--?(?:no)?(config(?:\.[^=]*)?)(?:=|$)", argument))
        for argument in argv[1:]
    ]
    return [(argument, match[1]) for argument, match in found if match]


def _check_keys(argv: Sequence[str], source: ConfigSource) -> None:
    """Raise InputError for a --config flag that the command does not take; reads no file."""
    if (times := sum(re.match(r"--?config(=|$)", argument) is not None for argument in argv)) > 1:
        raise InputError(f"--config: found it {times} times, expected once")
    has_config = any(given(argv, name) is not None for name in source.flag_names)
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
                f"{argument}: found no {' and no '.join(source.places.split(' or '))}, whose key "
                "this would change"
            )


def _check_own_keys(argv: Sequence[str], source: ConfigSource, content: ConfigDict) -> None:
    """Raise InputError for a key that this config does not have, or that is fixed."""
    own = flat(content.to_dict())
    for argument, key in _config_keys(argv):
        if key == "config":
            continue
        if source.check_keys is not None:
            source.check_keys([key], content.to_dict())
        check_key(key, own)
        if key in source.fixed and argument.partition("=")[2] != str(own[key]):
            raise InputError(
                f"{argument}: cannot be changed from {own[key]!r}, expected {source.fixed[key]}"
            )


def _given(argv: Sequence[str], source: ConfigSource) -> list[str]:
    """The flag of a command line that names its config."""
    found = [(name, given(argv, name)) for name in source.flag_names]
    return [f"--{name}={value}" for name, value in found if value is not None][:1]


def _without_file(argv: Sequence[str]) -> list[str]:
    """A command line without `--config=FILE` or `--config FILE`."""
    kept: list[str] = []
    is_value = False
    for argument in argv:
        if not is_value and not re.match(r"--?config(=|$)", argument):
            kept.append(argument)
        is_value = re.fullmatch(r"--?config", argument) is not None
    return kept


def _load(file: str, source: ConfigSource) -> ConfigDict:
    """What the `get_config` of FILE[:variant] returns.

    Raises:
        InputError: there is no such file, it fails, or its config is none that the command reads.
    """
    flag = f"--config={find_config(file)}"
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=[flag])
    try:
        values(["", flag])
        config: Any = values["config"].value
        hasattr(config, "to_dict")  # raises what the file raised, if that was an OSError
    except AttributeError as error:
        if "has no attribute 'get_config'" not in str(error):
            raise InputError(f"--config={file}: {_fault(f'AttributeError: {error}')}") from None
        raise InputError(f"--config={file}: found no get_config(), expected one") from None
    except (Exception, SystemExit) as error:  # a config file is code, and may raise anything
        kind = "" if isinstance(error, flags.Error) else f"{type(error).__name__}: "
        raise InputError(f"--config={file}: {_fault(f'{kind}{error}')}") from None
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config={file}: get_config returned a {type(config).__name__}, expected a ConfigDict"
        )
    expected = {one.name for kind in source.kinds for one in fields(kind)}
    unknown = set(config) - expected
    if len(unknown) > len(set(config)) / 2:  # one that is misspelt gets a message of its own
        raise InputError(
            f"--config={file}: is no config of this command: found the keys "
            f"{', '.join(sorted(unknown)[:3])}, …, expected those of {source.file}"
        )
    return config


FRAME = re.compile(r"^\s")  # a line of a traceback that is not the exception itself


def _fault(text: str) -> str:
    """What a config file raised: it arrives as a whole traceback, which ends with it."""
    lines = text.strip().splitlines()
    start = max((i + 1 for i, line in enumerate(lines) if FRAME.match(line)), default=0)
    message = " ".join(lines[start:]) or lines[-1].strip()
    ours = f"{InputError.__module__}.InputError: "
    if message.startswith(ours):
        return message.removeprefix(ours)
    return f"the file fails with {plain_message(message)}{moved_hint(message)}"
