"""The config in a run's directory, read without JAX: a wrong flag must not wait for its import."""

import json
from pathlib import Path
from typing import Any

from genrec_jax.core.errors import InputError
from genrec_jax.runs.config import Config, family_of

CONFIG = "config.json"


def read_config(workdir: Path) -> Config:
    """Read the config of a run; a key that the run is older than has its default.

    Raises:
        InputError: the directory holds no run, or its config cannot be read or is not valid.
    """
    values = read_object(workdir / CONFIG)
    if isinstance(values.get("model"), dict) and "family" not in values["model"]:
        raise InputError(
            f"--workdir={workdir}: found a run of a genrec_jax before 0.2.0, expected one of 0.2.0 "
            "or later"
        )
    defaults = Config.of_family(family_of(values)).to_dict()
    return Config.from_dict(_overlay(defaults, values))


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a run's directory.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"--workdir={path.parent}: found no {path.name}, expected a run's folder"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: found {found!r}, expected an object with keys")
    return found


def _overlay(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`values`, and what they lack of the defaults."""
    result = {**defaults, **values}
    for key, default in defaults.items():
        if isinstance(default, dict) and isinstance(result[key], dict):
            result[key] = _overlay(default, result[key])
    return result
