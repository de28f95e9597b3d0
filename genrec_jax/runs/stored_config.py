"""Read a run's config without importing JAX, so that flag errors are reported quickly."""

from pathlib import Path
from typing import Any

from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.config import config_from_dict, default_config, family_of
from genrec_jax.runs.run_format import CONFIG, check_config, read_object, read_record


def read_config(workdir: Path) -> RunConfig:
    """Read the config of a run; keys that are newer than the run get their defaults.

    Args:
        workdir: the run's directory.

    Raises:
        InputError: the directory does not contain a run or contains one of another format, or its
            config cannot be read, is invalid or was changed after the run was created.
    """
    record = read_record(workdir)
    values = read_object(workdir / CONFIG)
    check_config(workdir, values, record)
    defaults = default_config(family_of(values)).to_dict()
    return config_from_dict(_overlay(defaults, values))


def _overlay(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return `values`, completed with `defaults` for missing keys at every level."""
    result = {**defaults, **values}
    for key, default in defaults.items():
        if isinstance(default, dict) and isinstance(result[key], dict):
            result[key] = _overlay(default, result[key])
    return result
