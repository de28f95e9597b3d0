"""The format of a run directory: `run.json` contains its version and checksums.

`run.json` is written last when a run is created; only then does the directory count as a run. A
version of genrec_jax that cannot read the format reports this in one line. The checksums detect a
`config.json` or `model.json` that was edited or damaged after the run was created. Their values
must match the training of the checkpoints; other values would silently change the rankings.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrec_jax import __version__
from genrec_jax.core.config_fields import flat
from genrec_jax.core.errors import InputError

RECORD, CONFIG, MODEL = "run.json", "config.json", "model.json"
FORMAT = 1

# Keys that do not affect a run's result; a run may be resumed with other values.
RESULT_INDEPENDENT_KEYS = (
    "config.steps_per_dispatch",
    "config.model_parallel",
    "config.profile",
    "config.checkpoint_every_steps",
    "config.checkpoint_every_minutes",
    "config.keep_checkpoints",
)
DATA_DIR_KEY = "config.data.dir"  # the data folder of a machine; it does not identify a run
# Keys that may be edited in config.json. A fingerprint, not the path, identifies the dataset.
EDITABLE = (*RESULT_INDEPENDENT_KEYS, DATA_DIR_KEY, "config.data.file", "config.evaluate.")


def make_record(config: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of run.json for a new run.

    Args:
        config: the content of config.json.
        model: the content of model.json.
    """
    sha256 = {CONFIG: _config_checksum(config), MODEL: _checksum(model)}
    return {"format": FORMAT, "genrec_jax": __version__, "sha256": sha256}


def read_record(workdir: Path) -> dict[str, Any]:
    """Read the run.json of a run directory.

    Raises:
        InputError: the directory contains no run, a run from before version 0.2.0, or a run in
            the format of another version.
    """
    record = workdir / RECORD
    if not record.is_file() and (workdir / CONFIG).is_file():
        raise InputError(
            f"--workdir={workdir}: found no {RECORD}, expected a run of genrec_jax 0.2.0 or later; "
            "runs of earlier versions cannot be read"
        )
    content = read_object(record)
    if type(content.get("format")) is not int or content["format"] != FORMAT:
        raise InputError(
            f"{record}: found format {content.get('format')!r}, written by genrec_jax "
            f"{content.get('genrec_jax')}, expected format {FORMAT}, which genrec_jax "
            f"{__version__} reads"
        )
    return content


def check_config(workdir: Path, values: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Check that a config.json is unchanged since the run was created.

    Args:
        workdir: the run's directory.
        values: the content of config.json.
        record: the content of run.json.

    Raises:
        InputError: a key that may not be edited has another value.
    """
    _check(workdir / CONFIG, _config_checksum(values), record)


def check_model(workdir: Path, values: Mapping[str, Any]) -> None:
    """Check that a model.json is unchanged since the run was created.

    Args:
        workdir: the run's directory.
        values: the content of model.json.

    Raises:
        InputError: a value has changed, or run.json cannot be read.
    """
    _check(workdir / MODEL, _checksum(values), read_record(workdir))


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file in a run directory.

    Raises:
        InputError: the file is missing, cannot be read or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"--workdir={path.parent}: found no {path.name}, expected a run's folder"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {content!r}, expected a JSON object")
    return content


def _check(path: Path, found: str, record: Mapping[str, Any]) -> None:
    checksums = record.get("sha256")
    expected = checksums.get(path.name) if isinstance(checksums, Mapping) else None
    if not isinstance(expected, str):
        raise InputError(f"{path.with_name(RECORD)}: found no sha256 of {path.name}, expected one")
    if found != expected:
        raise InputError(
            f"{path}: was changed after the run was created: found sha256 "
            f"{found[:12]}…, expected {expected[:12]}… as in {RECORD}; restore the file, or train "
            "a new run"
        )


def _config_checksum(values: Mapping[str, Any]) -> str:
    checked = {key: value for key, value in flat(values).items() if not key.startswith(EDITABLE)}
    return _checksum(checked)


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
