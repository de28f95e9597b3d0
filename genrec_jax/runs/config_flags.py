"""`--config=FILE[:variant]` and `--config.KEY=VALUE` → a checked config.

A config file returns an ml_collections ConfigDict, whose keys become flags. ConfigDict ends here:
everything else takes the frozen dataclass. Only commands, sweeps and `configs/` import this module,
since not every machine that computes has ml_collections.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from ml_collections import ConfigDict, config_flags

from genrec_jax.core.config_fields import check_key
from genrec_jax.core.errors import InputError
from genrec_jax.core.shipped import with_config_found
from genrec_jax.runs.config import Config
from genrec_jax.runs.run_folder import RunFolder

Kind = TypeVar("Kind")  # Config of a run, or PrepareConfig of a dataset


# What config files import, where it was before 0.2.0.
MOVED = {
    "genrec_jax.config": "genrec_jax.runs.config",
    "genrec_jax.data.prepare_config": "genrec_jax.data.prepare.config",
}


def given(argv: Sequence[str], name: str) -> str | None:
    """The value of --name=value or `--name value`, before any flag is defined; None without one."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.fullmatch(rf"--?{name}(?:=(.*))?", argument):
            return following if match[1] is None else match[1]
    return None


def check_keys(argv: Sequence[str], defaults: object) -> None:
    """Raise InputError for a --config.KEY that `defaults`, an instance of the config, lacks."""
    has_config = given(argv, "config") is not None or given(argv, "workdir")
    for argument in argv[1:]:
        if match := re.match(r"--?(config\.[^=]*)", argument):
            check_key(match[1], defaults)
            if not has_config:
                raise InputError(
                    f"{argument}: found no --config=FILE and no --workdir=DIR, whose key this "
                    "would change"
                )


def define_config(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Define --config, and a flag for each key of the file that `argv` names.

    Without a file, the keys are those of the config in the run directory that --workdir names.
    """
    workdir, argv = given(argv, "workdir"), list(argv)
    if workdir and given(argv, "config") is None:
        config = ConfigDict(RunFolder(Path(workdir)).read_config().to_dict())
        config_flags.DEFINE_config_dict(
            "config", config, "The config file.", flag_values=values, sys_argv=argv
        )
    else:
        config_flags.DEFINE_config_file(
            "config", None, "The config file.", flag_values=values, sys_argv=argv
        )


def parse(
    values: flags.FlagValues, argv: Sequence[str], from_dict: Callable[[Mapping[str, Any]], Kind]
) -> Kind | None:
    """Set all flags from `argv` and return the config with its overrides; None without a config.

    Args:
        values: the flags, defined.
        argv: the command line, its program first.
        from_dict: of the config's class.

    Raises:
        InputError: an unknown flag, an ill-typed value, a config file that is missing or fails.
    """
    try:
        rest = values(with_config_found(argv))
        if len(rest) > 1:
            raise InputError(f"{rest[1]}: not a flag, expected --name=value")
        return None if values.config is None else from_dict(values.config.to_dict())
    except Exception as error:  # a config file is code, and may raise anything
        raise InputError(_last_line(error, given(argv, "config"))) from None


def run_config(argv: Sequence[str]) -> Config:
    """The config of a run from --config, --workdir and --config.KEY flags alone.

    Raises:
        InputError: as of `check_keys` and `parse`.
    """
    check_keys(argv, Config())
    values = flags.FlagValues()
    define_config(values, argv)
    flags.DEFINE_string("workdir", None, "The run's directory.", flag_values=values)
    config = parse(values, argv, Config.from_dict)
    if config is None:
        raise InputError("--config: found none, expected --config=configs/NAME.py[:variant]")
    return config


def _last_line(error: Exception, file: str | None) -> str:
    """A fault inside a config file arrives as a whole traceback; its last line says what it is."""
    *lines, last = str(error).strip().splitlines() or [repr(error)]
    ours = f"{InputError.__module__}.InputError: "
    is_a_message = (
        isinstance(error, InputError | flags.Error) and "Traceback" not in "".join(lines)
    ) or last.startswith(ours)
    if not is_a_message:
        kind = "" if isinstance(error, flags.Error) else f"{type(error).__name__}: "
        missing = re.search(r"No module named '([\w.]+)'", last)
        now = MOVED.get(missing[1]) if missing else None
        hint = f"; it is {now} now" if now else ""
        return f"--config={file}: the file fails with {kind}{last}{hint}"
    last = last.removeprefix(ours)
    last = re.sub(r"invalid literal for int.*", "expected a whole number", last)
    return re.sub(r"could not convert string to float.*", "expected a number", last)
