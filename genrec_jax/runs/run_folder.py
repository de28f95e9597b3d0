"""The directory of a run: everything that evaluation and serving need.

A run is moved by copying its directory, which contains:

run.json           format and checksums of config.json and model.json
config.json        the complete config
model.json         the shape of the model
identifiers/       indexing, token table and tokenizer
fingerprints.json  checksums that identify the dataset and the identifiers
jax_settings.json  settings of JAX and XLA that affect numerical results
checkpoints/STEP/  checkpoints, written with orbax
log.txt            the log with timestamps
metrics.jsonl      training and validation metrics, one line per log point
tensorboard/       the same metrics as TensorBoard events
predictions/       rankings as Parquet files
results.json       the test result
results_ensemble.json  the same for an ensemble with the kNN, if one was made
report.html        the report of the finished run
run.lock           held while a process trains the run
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
from genrec_jax.core.processes import is_process_0, on_process_0
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models import load_family
from genrec_jax.models.contract import ModelShape
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.checksums import folder_checksum
from genrec_jax.runs.run_format import (
    CONFIG,
    DATA_DIR_KEY,
    MODEL,
    RECORD,
    check_model,
    make_record,
    read_object,
)
from genrec_jax.runs.stored_config import read_config

IDENTIFIERS = "identifiers"  # key of the identifier files' checksum in fingerprints.json
# The required keys of results.json and their types.
RESULT_KEYS = {
    **dict.fromkeys(("model", "dataset", "split", "search"), str),
    **dict.fromkeys(("metrics", "intervals", "references", "counts", "seconds"), dict),
}
METRIC = "NDCG@10"  # the validation metric that compares checkpoints and trials
VALIDATION = "validation"  # the `phase` of validation lines in metrics.jsonl


class RunFolder:
    """The files of one run. With several processes, process 0 writes them and all read them.

    Args:
        path: the run's directory; it may not exist yet.
    """

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
        """Whether the directory contains a run."""
        return self._record.is_file()

    @on_process_0
    def check_usable(self, config: RunConfig, ignored: tuple[str, ...] = ()) -> None:
        """Check that a run can use the directory: it is empty or contains a run of the same config.

        Args:
            config: the config of the run that will use the directory.
            ignored: prefixes of keys that may differ, such as `config.evaluate`.

        Raises:
            InputError: the directory contains a run of another config, or other files.
        """
        # Files of a run that was killed while its directory was being created.
        files = {CONFIG, MODEL, RECORD}
        partial = files | {name + DRAFT for name in files} | {self.lock.name, self.predictions.name}
        found = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if not self.exists and found - partial:
            if CONFIG in found:
                self.read_config()  # raises: a run from before 0.2.0
            raise InputError(
                f"--workdir={self.path}: found a folder with other files, expected an empty folder "
                "or a run"
            )
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--workdir={self.path}: found a file, expected a folder")
        if not self.exists:
            return
        stored = self.read_config()
        if config.model.family != stored.model.family:
            raise InputError(
                f"--workdir={self.path}: found a run of the model family {stored.model.family}, "
                f"expected {config.model.family}, as in this config; choose another folder"
            )
        requested, existing = flat(config.to_dict()), flat(stored.to_dict())
        differing = [
            f"{key}: found {value!r}, expected {existing[key]!r}"
            for key, value in requested.items()
            if existing[key] != value and not key.startswith((DATA_DIR_KEY, *ignored))
        ]
        if differing:
            raise InputError(
                f"--workdir={self.path}: contains a run of another config "
                f"({'; '.join(differing)}); choose another folder, or use the run's config to "
                "resume it"
            )

    @on_process_0
    def create(self, config: RunConfig, shape: ModelShape) -> None:
        """Create the directory of a new run, or check the model shape of a resumed one.

        Args:
            config: the run's config.
            shape: the shape of the run's model.

        Raises:
            InputError: the resumed run has a model of another shape.
            TypeError: a value of the shape is not of its field's type.
            DiskError: the directory cannot be written.
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
        stored, current = dataclasses.asdict(self.read_shape()), dataclasses.asdict(shape)
        differing = [
            f"{name}: found {value!r}, expected {stored[name]!r}"
            for name, value in current.items()
            if stored[name] != value
        ]
        if differing:
            raise InputError(
                f"--workdir={self.path}: the run's model has another shape "
                f"({'; '.join(differing)}); resume it on the kind of device it was started on"
            )

    @on_process_0
    def write_identifiers(self, catalogue: Catalogue, fingerprints: Mapping[str, str]) -> None:
        """Store the identifiers of a new run and the fingerprints of its data.

        Args:
            catalogue: the run's users and items with their identifiers.
            fingerprints: the result of `fingerprints.of_run`.

        Raises:
            DiskError: the files cannot be written.
        """
        catalogue.save(self.identifiers)
        content = {**fingerprints, IDENTIFIERS: folder_checksum(self.identifiers)}
        write_atomically(self._fingerprints, json.dumps(content, indent=2) + "\n")

    def read_identifiers(self) -> Catalogue:
        """Read the run's users and items with their identifiers.

        Raises:
            InputError: a file is missing or was changed after the run was created.
        """
        expected = read_object(self._fingerprints).get(IDENTIFIERS)
        if (found := folder_checksum(self.identifiers)) != expected:
            raise InputError(
                f"{self.identifiers}: its files were changed after the run was created: found "
                f"sha256 {found[:12]}…, expected {str(expected)[:12]}…; restore the files"
            )
        return Catalogue.load(self.identifiers)

    @on_process_0
    def check_fingerprints(self, found: Mapping[str, str], flag: str = "--workdir") -> None:
        """Check that the current data is the data that the run was trained on.

        Args:
            found: all or some of the current fingerprints, from `fingerprints.of_run` or
                `fingerprints.of_dataset`.
            flag: the flag that names this directory, for the error message.

        Raises:
            InputError: the dataset, numbering, tokenizer or token table differs.
        """
        expected = read_object(self._fingerprints)
        differing = [
            f"{name}: found sha256 {value[:12]}…, expected {str(expected.get(name))[:12]}…"
            for name, value in found.items()
            if value != expected.get(name)
        ]
        if differing:
            raise InputError(
                f"{flag}={self.path}: the run was trained on other data ({'; '.join(differing)})"
                "; restore the original data, or choose another folder"
            )

    def dataset_sha256(self) -> str:
        """Return the sha256 of the dataset that the run was trained on."""
        return str(read_object(self._fingerprints).get("dataset"))

    @on_process_0
    def write_jax_settings(self, settings: Mapping[str, Any]) -> None:
        """Store the JAX settings of a new run, for `check_jax_settings`."""
        write_atomically(self._jax_settings, json.dumps(settings, indent=2) + "\n")

    @on_process_0
    def check_jax_settings(self, found: Mapping[str, Any]) -> None:
        """Check that this process has the JAX settings that the run was started with.

        Args:
            found: the settings of this process, from `jax_settings.recorded`.

        Raises:
            InputError: a setting that affects numerical results differs.
        """
        if differing := self.differing_jax_settings(found):
            raise InputError(
                f"--workdir={self.path}: the run was started under other JAX settings "
                f"({'; '.join(differing)}), which affect its results; restore these settings to "
                "resume it, or choose another folder"
            )

    def differing_jax_settings(self, found: Mapping[str, Any]) -> list[str]:
        """Describe each JAX setting that differs from the run's; none if there is no run.

        Args:
            found: the settings of this process, from `jax_settings.recorded`.
        """
        if not self._jax_settings.is_file():
            return []
        return differences(found, read_object(self._jax_settings))

    def read_config(self) -> RunConfig:
        """Read the run's config; keys that are newer than the run get their defaults.

        Raises:
            InputError: there is no run, or its config cannot be read, is invalid or was changed.
        """
        return read_config(self.path)

    def read_shape(self) -> ModelShape:
        """Read the shape of the run's model.

        Raises:
            InputError: there is no run, or its model.json was changed or does not fit its family.
        """
        kind = load_family(self.read_config().model.family).shape
        assert dataclasses.is_dataclass(kind)
        values = read_object(self._shape)
        check_model(self.path, values)
        if wrong := _ill_typed(kind, values):
            raise InputError(f"{self._shape}: {'; '.join(wrong)}")
        return kind(**values)

    def read_results(self) -> dict[str, Any] | None:
        """Read the test result; None if the run is not finished.

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
                    "that the run stored; delete the file to evaluate the run again"
                )
        return results

    @on_process_0
    def write_results(self, results: dict[str, Any]) -> None:
        """Store the test result, which marks the run as finished."""
        write_atomically(self._results, json.dumps(results, indent=2) + "\n")

    @on_process_0
    def drop_metrics_after(self, step: int, validation_due: bool) -> None:
        """Remove the metrics that a run resumed from a checkpoint will log again.

        Args:
            step: the checkpoint's step; metrics of later steps are removed.
            validation_due: whether the validation at `step` will be repeated; if so, its metrics
                are removed too.

        Raises:
            InputError: metrics.jsonl contains an invalid line.
        """
        if not self.metrics.is_file():
            return
        lines = self.metrics.read_text(errors="replace").splitlines(keepends=True)
        kept = []
        try:
            for line in lines:
                if not line.endswith("\n"):  # the process was killed while writing it
                    continue
                entry = json.loads(line)
                is_repeated = validation_due and entry["phase"] == VALIDATION
                if entry["step"] < step or (entry["step"] == step and not is_repeated):
                    kept.append(line)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.metrics}: found an invalid line: {error}") from None
        write_atomically(self.metrics, "".join(kept))

    @contextlib.contextmanager
    def log_lines(self) -> Iterator[logging.handlers.MemoryHandler]:
        """Write all log lines inside the block to log.txt, with timestamps.

        Yields:
            A handler that buffers the lines until `open_log` is called with it.
        """
        buffer = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
        logger = logging.getLogger("genrec_jax")
        logger.addHandler(buffer)
        try:
            yield buffer
        finally:
            logger.removeHandler(buffer)
            if buffer.target is not None:
                buffer.target.close()
            buffer.close()

    @on_process_0
    def open_log(self, buffer: logging.handlers.MemoryHandler) -> None:
        """Write the buffered log lines to log.txt, and each further line immediately.

        Args:
            buffer: the handler that `log_lines` yielded; the run's directory must exist.
        """
        file = _LogFile(self.path / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        buffer.setTarget(file)
        buffer.flush()
        buffer.capacity = 1


def _ill_typed(kind: type[ModelShape], values: Mapping[str, Any]) -> list[str]:
    """Describe each field of a model's shape that is missing, unknown or of the wrong type."""
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
    """Write metrics to metrics.jsonl and to TensorBoard events.

    When a run is resumed, the events are rewritten from metrics.jsonl. Each event therefore exists
    once, in one file, whatever the previous process left and whatever the clock says. Disk errors
    reach the caller; tensorboardX's own writer thread would end on an error and deadlock on close.

    Raises:
        DiskError: a file cannot be written; also raised by `write` and `close`.
    """

    @on_process_0
    def __init__(self, folder: RunFolder):
        from tensorboardX.event_file_writer import EventsWriter  # local: slow to import

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

    @on_process_0
    def write(self, step: int, phase: str, metrics: dict[str, float]) -> None:
        """Write the metrics of one log point.

        Args:
            step: the step of the run.
            phase: `pretrain`, `finetune` or `validation`.
            metrics: name → value.
        """
        with writing(self._path):
            self._lines.write(json.dumps({"step": step, "phase": phase, **metrics}) + "\n")
            self._lines.flush()
            self._write_events(step, phase, **metrics)
            self._events.flush()

    def _write_events(self, step: int, phase: str, **metrics: float) -> None:
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        messages: Any = event_pb2  # generated at import time, so its types are unknown
        for name, value in metrics.items():
            summary = scalar(f"{phase}/{name}", value)
            self._events.write_event(
                messages.Event(wall_time=time.time(), step=step, summary=summary)
            )

    def close(self) -> None:
        """Close both files."""
        if not is_process_0():
            return
        with writing(self._path):
            self._lines.close()
            self._events.close()


class _LogFile(logging.FileHandler):
    """Write log.txt, ignoring disk errors: the console has the lines, and other writers raise."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass
