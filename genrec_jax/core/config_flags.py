"""`--config=FILE[:variant]` and `--config.KEY=VALUE` → a checked config.

A config file returns an ml_collections ConfigDict, whose keys become flags. ConfigDict ends here:
everything else takes the frozen dataclass. Only commands and sweeps import this module, since not
every machine that computes has ml_collections.
"""

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from genrec_jax.core.config_fields import check_key, flat
from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import Flag, given, plain_message, read_flags
from genrec_jax.core.moved import moved_hint
from genrec_jax.core.shipped import with_config_found


@dataclass(frozen=True)
class ConfigSource:
    """What a command's config is and where it comes from.

    Attributes:
        defaults: an instance of the config's dataclass, which has `from_dict`.
        file: what --config expects, for messages; "" if the command takes none.
        stored: reads the config that the directory of --workdir holds, as nested mappings; None if
            the command reads none there.
        group: the only keys that may be changed, as "evaluate"; "" if all may.
        variants: by name, instances like `defaults`, but with other keys in some groups.
        fixed: keys that no flag may change, and what is expected instead.
    """

    defaults: Any
    file: str = ""
    stored: Callable[[Path], Mapping[str, Any]] | None = None
    group: str = ""
    variants: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)

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
    values = flags.FlagValues()
    _define_config(values, argv, source)
    file = given(argv, "config")
    try:
        read = read_flags(values, with_config_found(argv), declared, positional)
        content = _content(values.config, file, source)
        read.config = type(source.defaults).from_dict(content)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a config file is code, and may raise anything
        _check_variant_keys(argv, source, str(error))
        raise InputError(f"--config={file}: {_fault(error)}") from None
    read.config_file = file
    return read


def _check_keys(argv: Sequence[str], source: ConfigSource) -> None:
    """Raise InputError for a --config flag that the command does not take; reads no file."""
    if (times := sum(re.match(r"--?config(=|$)", argument) is not None for argument in argv)) > 1:
        raise InputError(f"--config: found it {times} times, expected once")
    has_config = any(given(argv, name) is not None for name in source.flag_names)
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?(config(?:\.[^=]*)?)(?:=|$)", argument)
        if match is None:
            continue
        key = match[1]
        if source.group and not key.startswith(f"config.{source.group}."):
            raise InputError(
                f"{argument}: not a flag of this command, expected "
                f"--config.{source.group}.KEY=VALUE"
            )
        if key != "config":
            check_key(key, source.defaults, *source.variants.values())
            if key in source.fixed:
                raise InputError(f"{argument}: cannot be changed, expected {source.fixed[key]}")
            if not has_config:
                raise InputError(
                    f"{argument}: found no {' and no '.join(source.places.split(' or '))}, whose "
                    "key this would change"
                )


def _check_variant_keys(argv: Sequence[str], source: ConfigSource, error: str) -> None:
    """Raise InputError if an error is about a key that only other variants of the config have."""
    for argument in argv[1:]:
        match = re.match(r"--?(?:no)?(config\.[^=]*)", argument)
        if match is None or repr(match[1].rsplit(".", 1)[-1]) not in error:
            continue
        having = [
            name
            for name, config in source.variants.items()
            if match[1] in flat(dataclasses.asdict(config))
        ]
        if 0 < len(having) < len(source.variants):
            raise InputError(
                f"{match[1]}: is no key of the config of {' '.join(_given(argv, source))}, but of "
                f"{' and '.join(having)}"
            ) from None


def _given(argv: Sequence[str], source: ConfigSource) -> list[str]:
    """The flags of a command line that name its config."""
    found = [(name, given(argv, name)) for name in source.flag_names]
    return [f"--{name}={value}" for name, value in found if value is not None][:1]


def _define_config(values: flags.FlagValues, argv: Sequence[str], source: ConfigSource) -> None:
    """Define --config, and a flag for each key of the file or of the stored config."""
    workdir, argv = given(argv, "workdir"), list(argv)
    if source.stored and workdir and given(argv, "config") is None:
        stored = ConfigDict(source.stored(Path(workdir)))
        config_flags.DEFINE_config_dict("config", stored, flag_values=values, sys_argv=argv)
    else:
        config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)


def _content(config: object, file: str | None, source: ConfigSource) -> dict[str, Any]:
    """A config as nested mappings.

    Raises:
        InputError: there is none, or the file's is not one that this command reads.
    """
    if config is None and file is None:
        raise InputError(f"--config: found none, expected {source.places}")
    if not isinstance(config, ConfigDict):
        hasattr(config, "to_dict")  # raises what the file raised, if that was an OSError
        raise InputError(
            f"--config={file}: get_config returned a {type(config).__name__}, expected a ConfigDict"
        )
    expected = {field.name for field in dataclasses.fields(source.defaults)}
    unknown = set(config) - expected
    if len(unknown) > len(set(config)) / 2:  # one that is misspelt gets a message of its own
        raise InputError(
            f"--config={file}: is no config of this command: found the keys "
            f"{', '.join(sorted(unknown)[:3])}, …, expected those of {source.file}"
        )
    return config.to_dict()


def _fault(error: BaseException) -> str:
    """What a config file raised: it arrives as a whole traceback, whose last line says it."""
    *lines, last = str(error).strip().splitlines() or [repr(error)]
    ours = f"{InputError.__module__}.InputError: "
    if last.startswith(ours):
        return last.removeprefix(ours)
    is_a_message = isinstance(error, flags.Error) and "Traceback" not in "".join(lines)
    kind = "" if isinstance(error, flags.Error) else f"{type(error).__name__}: "
    fault = plain_message(last)
    return fault if is_a_message else f"the file fails with {kind}{fault}{moved_hint(last)}"
