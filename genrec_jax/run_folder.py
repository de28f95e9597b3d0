"""A run is a folder: all that evaluation and serving need, so that copying it moves the run.

config.json        the whole config                log.txt          what the console said
model.json         the shape of the model          metrics.jsonl    a line a log point
identifiers/       indexing, token table, tokenizer  tensorboard/   the same as events
checkpoints/STEP/  orbax                           results.json     the test result
predictions/       ranked lists as Parquet files   report.html     all of it to look at
"""

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

from genrec_jax.config import Config, flat
from genrec_jax.errors import InputError
from genrec_jax.model.bart import BartShape

MACHINE_KEY = "config.data.dir"  # where a machine keeps the data does not make another run


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.identifiers = path / "identifiers"
        self.checkpoints = path / "checkpoints"
        self.predictions = path / "predictions"
        self.metrics = path / "metrics.jsonl"
        self.report = path / "report.html"
        self._config = path / "config.json"
        self._shape = path / "model.json"
        self._results = path / "results.json"

    @property
    def exists(self) -> bool:
        return self._config.is_file()

    def check_usable(self, config: Config, ignored: tuple[str, ...] = ()) -> None:
        """Raise InputError if the folder holds another run, or things that are not a run.

        Args:
            config: of the run that wants the folder.
            ignored: prefixes of keys that may differ, like `config.evaluate`.
        """
        if self.path.is_dir() and not self.exists and any(self.path.iterdir()):
            raise InputError(f"--workdir={self.path}: the folder is not empty and holds no run")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--workdir={self.path}: found a file, expected a folder")
        if not self.exists:
            return
        ours, theirs = flat(config.to_dict()), flat(self.read_config().to_dict())
        differing = [
            f"{key} is {theirs[key]!r} there and {value!r} here"
            for key, value in ours.items()
            if theirs[key] != value and not key.startswith((MACHINE_KEY, *ignored))
        ]
        if differing:
            raise InputError(
                f"--workdir={self.path}: holds the run of another config ({'; '.join(differing)}); "
                "give another folder, or the same config to go on with that run"
            )

    def create(self, config: Config, shape: BartShape) -> None:
        try:
            self.predictions.mkdir(parents=True, exist_ok=True)
            write_atomically(self._shape, json.dumps(dataclasses.asdict(shape), indent=2) + "\n")
            write_atomically(self._config, config.to_json())
        except OSError as error:
            raise InputError(f"--workdir={self.path}: cannot be written: {error}") from None

    def read_config(self) -> Config:
        """The run's config. A key that is younger than the run stands at its default."""
        return Config.from_dict(_overlay(Config().to_dict(), self._read(self._config)))

    def read_shape(self) -> BartShape:
        values = self._read(self._shape)
        types = {field.name: field.type for field in dataclasses.fields(BartShape)}
        if {name: type(value) for name, value in values.items()} != types:
            raise InputError(f"{self._shape}: found {values}, expected the shape of a model")
        return BartShape(**values)

    def read_results(self) -> dict[str, Any] | None:
        return self._read(self._results) if self._results.is_file() else None

    def write_results(self, results: dict[str, Any]) -> None:
        write_atomically(self._results, json.dumps(results, indent=2) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """A run that goes on from a checkpoint writes the lines after it again."""
        if self.metrics.is_file():
            lines = self.metrics.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            try:
                kept = [line for line in whole if json.loads(line)["step"] <= step]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{self.metrics}: holds a line of another kind: {error}") from None
            write_atomically(self.metrics, "".join(kept))

    def log_to_file(self) -> logging.Handler:
        """A handler that appends to log.txt with the time of each line."""
        handler = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        return handler

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, dict):
                raise InputError(f"{path}: found {found!r}, expected an object with keys")
            return found
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"--workdir={self.path}: found no {path.name}, expected a run's folder"
            ) from None
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None


class MetricsWriter:
    """Figures to metrics.jsonl, a line a call, and to TensorBoard events."""

    def __init__(self, folder: RunFolder):
        from tensorboardX import SummaryWriter  # here: its import is slow and serving needs none

        self._lines = folder.metrics.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder.path / "tensorboard"))

    def write(self, step: int, phase: str, figures: dict[str, float]) -> None:
        self._lines.write(json.dumps({"step": step, "phase": phase, **figures}) + "\n")
        self._lines.flush()
        for name, value in figures.items():
            self._events.add_scalar(f"{phase}/{name}", value, step)

    def close(self) -> None:
        self._lines.close()
        self._events.close()


def _overlay(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`values`, and what they lack of the defaults."""
    result = {**defaults, **values}
    for key, default in defaults.items():
        if isinstance(default, dict) and isinstance(result[key], dict):
            result[key] = _overlay(default, result[key])
    return result


def write_atomically(path: Path, text: str) -> None:
    """The file is there whole or not at all."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
