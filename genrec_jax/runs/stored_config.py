"""The config in a run's directory, read without JAX: a wrong flag must not wait for its import."""

from pathlib import Path
from typing import Any

from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.config import config_from_dict, default_config, family_of
from genrec_jax.runs.run_format import CONFIG, check_config, read_object, read_record


def read_config(workdir: Path) -> RunConfig:
    """Read the config of a run; a key that the run is older than has its default.

    Raises:
        InputError: the directory holds no run, one of another format, or a config that was changed
            since, cannot be read or is not valid.
    """
    record = read_record(workdir)
    values = read_object(workdir / CONFIG)
    check_config(workdir, values, record)
    defaults = default_config(family_of(values)).to_dict()
    return config_from_dict(_overlay(defaults, values))


def _overlay(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`values`, and what they lack of the defaults."""
    result = {**defaults, **values}
    for key, default in defaults.items():
        if isinstance(default, dict) and isinstance(result[key], dict):
            result[key] = _overlay(default, result[key])
    return result
