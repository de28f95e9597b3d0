"""The format of a run directory: `run.json` has its number, and checksums of config and model.

`run.json` is written last when a run is created: with it, the directory is a run's. A version that
cannot read a format refuses it in one line. The checksums find a `config.json` or `model.json` that
was edited or damaged afterwards: their values say how the checkpoints were trained, and others
would rank silently differently.
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

# Keys that change how a run is computed and not its result: a run may be resumed with others.
SAME_RESULT = (
    "config.steps_per_dispatch",
    "config.model_parallel",
    "config.profile",
    "config.checkpoint_every_steps",
    "config.checkpoint_every_minutes",
    "config.keep_checkpoints",
)
MACHINE_KEY = "config.data.dir"  # where a machine keeps the data does not make another run
# What may be edited in config.json: the dataset is recognised by its fingerprint, wherever it is.
EDITABLE = (*SAME_RESULT, MACHINE_KEY, "config.data.file", "config.evaluate.")


def make_record(config: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """The content of run.json for the contents of config.json and model.json."""
    sha256 = {CONFIG: _config_sum(config), MODEL: _sum(model)}
    return {"format": FORMAT, "genrec_jax": __version__, "sha256": sha256}


def read_record(workdir: Path) -> dict[str, Any]:
    """Read a directory's run.json.

    Raises:
        InputError: there is no run, one of before 0.2.0, or one in a format of another version.
    """
    record = workdir / RECORD
    if not record.is_file() and (workdir / CONFIG).is_file():
        raise InputError(
            f"--workdir={workdir}: found no {RECORD}, expected a run of genrec_jax 0.2.0 or later; "
            "earlier versions wrote none"
        )
    found = read_object(record)
    if type(found.get("format")) is not int or found["format"] != FORMAT:
        raise InputError(
            f"{record}: found the format {found.get('format')!r} of genrec_jax "
            f"{found.get('genrec_jax')}, expected {FORMAT}, which this genrec_jax {__version__} "
            "reads"
        )
    return found


def check_config(workdir: Path, values: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Raise InputError if config.json holds another config than the run was created with.

    Args:
        workdir: of the run.
        values: what config.json holds.
        record: what run.json holds.
    """
    _check(workdir / CONFIG, _config_sum(values), record)


def check_model(workdir: Path, values: Mapping[str, Any]) -> None:
    """Raise InputError if model.json holds another shape than the run was created with.

    Args:
        workdir: of the run.
        values: what model.json holds.
    """
    _check(workdir / MODEL, _sum(values), read_record(workdir))


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


def _check(path: Path, found: str, record: Mapping[str, Any]) -> None:
    sums = record.get("sha256")
    expected = sums.get(path.name) if isinstance(sums, Mapping) else None
    if not isinstance(expected, str):
        raise InputError(f"{path.with_name(RECORD)}: found no sha256 of {path.name}, expected one")
    if found != expected:
        raise InputError(
            f"{path}: was changed after the run was created: its values have sha256 "
            f"{found[:12]}…, expected {expected[:12]}… as in {RECORD}; put back what it held, "
            "or train another run"
        )


def _config_sum(values: Mapping[str, Any]) -> str:
    fixed = {key: value for key, value in flat(values).items() if not key.startswith(EDITABLE)}
    return _sum(fixed)


def _sum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
