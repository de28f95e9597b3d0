"""A run is a folder: all that evaluation and serving need, so that copying it moves the run.

run.json           format, checksums of these two  log.txt          what the console said
config.json        the whole config                metrics.jsonl    a line per log point
model.json         the shape of the model
identifiers/       indexing, token table, tokenizer  tensorboard/   the same as events
checkpoints/STEP/  orbax                           results.json     the test result
predictions/       ranked lists as Parquet files   report.html     all of it to look at
fingerprints.json  of the dataset, to know it by   run.lock        while a process trains
jax_settings.json  switches of JAX and XLA that change numbers
"""

import contextlib
import dataclasses
import json
import logging
import logging.handlers
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genrec_jax.core.config_fields import flat
from genrec_jax.core.disk import DRAFT, write_atomically, writing
from genrec_jax.core.errors import InputError
from genrec_jax.core.jax_settings import differences
from genrec_jax.core.processes import by_the_first, is_first
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models import load_family
from genrec_jax.models.contract import ModelShape
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.checksums import sum_of_sums
from genrec_jax.runs.run_format import (
    CONFIG,
    MACHINE_KEY,
    MODEL,
    RECORD,
    check_model,
    make_record,
    read_object,
)
from genrec_jax.runs.stored_config import read_config

IDENTIFIERS = "identifiers"  # of fingerprints.json: the files of that folder
# What every result has, and its type.
RESULT_KEYS = {
    **dict.fromkeys(("model", "dataset", "split", "search"), str),
    **dict.fromkeys(("metrics", "intervals", "references", "counts", "seconds"), dict),
}
METRIC = "NDCG@10"  # of validation, by which checkpoints and trials are compared
VALIDATION = "validation"  # the phase of a line of validation figures


class RunFolder:
    """The files of one run. Of several processes the first writes them, and all read them."""

    def __init__(self, path: Path):
        self.path = path
        self.identifiers = path / "identifiers"
        self.checkpoints = path / "checkpoints"
        self.predictions = path / "predictions"
        self.metrics = path / "metrics.jsonl"
        self.report = path / "report.html"
        self.lock = path / "run.lock"
        self._record = path / RECORD
        self._config = path / CONFIG
        self._shape = path / MODEL
        self._results = path / "results.json"
        self._fingerprints = path / "fingerprints.json"
        self._jax_settings = path / "jax_settings.json"

    @property
    def exists(self) -> bool:
        return self._record.is_file()

    @by_the_first
    def check_usable(self, config: RunConfig, ignored: tuple[str, ...] = ()) -> None:
        """Raise InputError if the folder holds another run, or things that are not a run.

        Args:
            config: of the run that wants the folder.
            ignored: prefixes of keys that may differ, like `config.evaluate`.
        """
        # What is there of a run that was killed while its directory was created.
        files = {CONFIG, MODEL, RECORD}
        ours = files | {name + DRAFT for name in files} | {self.lock.name, self.predictions.name}
        found = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if not self.exists and found - ours:
            if CONFIG in found:
                self.read_config()  # raises: a run of before 0.2.0
            raise InputError(f"--workdir={self.path}: the folder is not empty and holds no run")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--workdir={self.path}: found a file, expected a folder")
        if not self.exists:
            return
        stored = self.read_config()
        if config.model.family != stored.model.family:
            raise InputError(
                f"--workdir={self.path}: holds a run of the model family {stored.model.family}, "
                f"and this config is of {config.model.family}; give another folder"
            )
        ours, theirs = flat(config.to_dict()), flat(stored.to_dict())
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

    @by_the_first
    def create(self, config: RunConfig, shape: ModelShape) -> None:
        """Create the directory of a new run; that of a run which is resumed stays as it is.

        Raises:
            InputError: the run that is resumed has a model of another shape.
            TypeError: the shape holds a value that cannot be stored as a field of its type.
            DiskError: the folder cannot be written.
        """
        if self.exists:
            self._check_shape(shape)
            return
        values = dataclasses.asdict(shape)
        if wrong := _ill_typed(type(shape), values):
            raise TypeError(f"{type(shape).__name__}: {'; '.join(wrong)}")
        record = make_record(config.to_dict(), values)
        with writing(f"--workdir={self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            self.predictions.mkdir(exist_ok=True)
            write_atomically(self._config, config.to_json())
            write_atomically(self._shape, json.dumps(values, indent=2) + "\n")
            write_atomically(self._record, json.dumps(record, indent=2) + "\n")

    def _check_shape(self, shape: ModelShape) -> None:
        """Raise InputError if the run's model has another shape than `shape`."""
        stored, found = dataclasses.asdict(self.read_shape()), dataclasses.asdict(shape)
        differing = [
            f"{name} is {stored[name]!r} there and {value!r} here"
            for name, value in found.items()
            if stored[name] != value
        ]
        if differing:
            raise InputError(
                f"--workdir={self.path}: the run has a model of another shape "
                f"({'; '.join(differing)}); resume it on the kind of device it was started on"
            )

    @by_the_first
    def write_identifiers(self, catalogue: Catalogue, fingerprints: Mapping[str, str]) -> None:
        """Store the identifiers of a new run, and by what they and its dataset are recognised.

        Args:
            catalogue: of the run.
            fingerprints: as of `fingerprints.of_run`.
        """
        catalogue.save(self.identifiers)
        content = {**fingerprints, IDENTIFIERS: sum_of_sums(self.identifiers)}
        write_atomically(self._fingerprints, json.dumps(content, indent=2) + "\n")

    def read_identifiers(self) -> Catalogue:
        """The users and items of the run.

        Raises:
            InputError: a file is missing, or was changed since the run was created.
        """
        expected = read_object(self._fingerprints).get(IDENTIFIERS)
        if (found := sum_of_sums(self.identifiers)) != expected:
            raise InputError(
                f"{self.identifiers}: its files were changed after the run was created: found "
                f"sha256 {found[:12]}…, expected {str(expected)[:12]}…; put back what they held"
            )
        return Catalogue.load(self.identifiers)

    @by_the_first
    def check_fingerprints(self, found: Mapping[str, str], flag: str = "--workdir") -> None:
        """Raise InputError if the run has seen another dataset, numbering or tokenizer.

        Args:
            found: all or some of those that fingerprints.py makes.
            flag: that named the folder.
        """
        expected = read_object(self._fingerprints)
        differing = [
            f"{name} has sha256 {value[:12]}… here and {str(expected.get(name))[:12]}… there"
            for name, value in found.items()
            if value != expected.get(name)
        ]
        if differing:
            raise InputError(
                f"{flag}={self.path}: the run was trained on other data ({'; '.join(differing)})"
                "; put back what it was trained on, or give another folder"
            )

    def dataset_sha256(self) -> str:
        """The sha256 of the dataset that the run was trained on."""
        return str(read_object(self._fingerprints).get("dataset"))

    @by_the_first
    def write_jax_settings(self, settings: Mapping[str, Any]) -> None:
        """Store the settings that the run is started with, for `check_jax_settings`."""
        write_atomically(self._jax_settings, json.dumps(settings, indent=2) + "\n")

    @by_the_first
    def check_jax_settings(self, found: Mapping[str, Any]) -> None:
        """Raise InputError if the run was started under other JAX settings.

        Args:
            found: of this process, as `jax_settings.recorded` returns them.
        """
        if differing := self.differing_jax_settings(found):
            raise InputError(
                f"--workdir={self.path}: the run was started under other JAX settings "
                f"({'; '.join(differing)}), which change its numbers; set them as they were there "
                "to resume it, or give another folder"
            )

    def differing_jax_settings(self, found: Mapping[str, Any]) -> list[str]:
        """A phrase for each setting in which the run differs; none for a directory without a run.

        Args:
            found: as for `check_jax_settings`.
        """
        if not self._jax_settings.is_file():
            return []
        return differences(found, read_object(self._jax_settings))

    def read_config(self) -> RunConfig:
        """The run's config. A key that is younger than the run stands at its default."""
        return read_config(self.path)

    def read_shape(self) -> ModelShape:
        """The shape of the run's model.

        Raises:
            InputError: there is no run, or its model.json is not of its family.
        """
        kind = load_family(self.read_config().model.family).shape
        assert dataclasses.is_dataclass(kind)
        values = read_object(self._shape)
        check_model(self.path, values)
        if wrong := _ill_typed(kind, values):
            raise InputError(f"{self._shape}: {'; '.join(wrong)}")
        return kind(**values)

    def read_results(self) -> dict[str, Any] | None:
        """The test result; None of a run that is not finished.

        Raises:
            InputError: results.json is damaged.
        """
        if not self._results.is_file():
            return None
        results = read_object(self._results)
        for key, kind in RESULT_KEYS.items():
            if not isinstance(results.get(key), kind):
                raise InputError(
                    f"{self._results}: {key}: found {results.get(key)!r}, expected the value "
                    "that the run stored; delete the file to test the run again"
                )
        return results

    @by_the_first
    def write_results(self, results: dict[str, Any]) -> None:
        write_atomically(self._results, json.dumps(results, indent=2) + "\n")

    @by_the_first
    def drop_metrics_after(self, step: int, validation_due: bool) -> None:
        """A run that goes on from a checkpoint writes the lines after it again.

        Args:
            step: of the checkpoint.
            validation_due: the validation at that step is made again too.
        """
        if not self.metrics.is_file():
            return
        lines = self.metrics.read_text(errors="replace").splitlines(keepends=True)
        kept = []
        try:
            for line in lines:
                if not line.endswith("\n"):  # it was being written
                    continue
                found = json.loads(line)
                again = validation_due and found["phase"] == VALIDATION
                if found["step"] < step or (found["step"] == step and not again):
                    kept.append(line)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.metrics}: holds a line of another kind: {error}") from None
        write_atomically(self.metrics, "".join(kept))

    @contextlib.contextmanager
    def log_lines(self) -> Iterator[logging.handlers.MemoryHandler]:
        """Within, the log goes to log.txt too, with the time of each line.

        Gives a handler that keeps the lines until `open_log` says that the folder is there.
        """
        waiting = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
        logger = logging.getLogger("genrec_jax")
        logger.addHandler(waiting)
        try:
            yield waiting
        finally:
            logger.removeHandler(waiting)
            if waiting.target is not None:
                waiting.target.close()
            waiting.close()

    @by_the_first
    def open_log(self, waiting: logging.handlers.MemoryHandler) -> None:
        """The lines so far, and from now on each at once."""
        file = _LogFile(self.path / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        waiting.setTarget(file)
        waiting.flush()
        waiting.capacity = 1


def _ill_typed(kind: type[ModelShape], values: Mapping[str, Any]) -> list[str]:
    """A phrase for each field of a model's shape that is missing, unknown or of another type."""
    expected = {
        field.name: field.type if field.type in (int, float, bool) else str
        for field in dataclasses.fields(kind)
    }
    return [
        f"{name}: found {values.get(name)!r}, expected "
        + (f"a value of type {expected[name].__name__}" if name in expected else "no such field")
        for name in {**expected, **values}
        if type(values.get(name)) is not expected.get(name)
    ]


class MetricsWriter:
    """Figures to metrics.jsonl, a line a call, and to TensorBoard events.

    The events of a run that goes on are written anew from metrics.jsonl: each is there once, in one
    file, whatever the process before left and whatever the clock says. A DiskError comes to the
    caller, where tensorboardX's own writer, a thread, would end and later wait for itself.
    """

    @by_the_first
    def __init__(self, folder: RunFolder):
        from tensorboardX.event_file_writer import EventsWriter  # here: slow, serving needs none

        self._path = folder.metrics
        events = folder.path / "tensorboard"
        with writing(self._path):
            events.mkdir(exist_ok=True)
            for old in events.glob("events.*"):
                old.unlink()
            self._events = EventsWriter(str(events / "events"))
            if folder.metrics.is_file():
                for line in folder.metrics.read_text().splitlines():
                    self._write_events(**json.loads(line))
            self._lines = folder.metrics.open("a", encoding="utf-8")

    @by_the_first
    def write(self, step: int, phase: str, figures: dict[str, float]) -> None:
        with writing(self._path):
            self._lines.write(json.dumps({"step": step, "phase": phase, **figures}) + "\n")
            self._lines.flush()
            self._write_events(step, phase, **figures)
            self._events.flush()

    def _write_events(self, step: int, phase: str, **figures: float) -> None:
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        messages: Any = event_pb2  # made at import: its types are unknown
        for name, value in figures.items():
            summary = scalar(f"{phase}/{name}", value)
            self._events.write_event(
                messages.Event(wall_time=time.time(), step=step, summary=summary)
            )

    def close(self) -> None:
        if not is_first():
            return
        with writing(self._path):
            self._lines.close()
            self._events.close()


class _LogFile(logging.FileHandler):
    """log.txt. What the disk does not take is on the console; the writers of figures raise."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass
