"""A whole training run: data → identifiers → model → pretrain → finetune → test."""

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from genrec_jax.core import jax_settings, processes
from genrec_jax.core.devices import Devices, on_host
from genrec_jax.core.file_lock import locked
from genrec_jax.core.progress import track
from genrec_jax.core.signals import StopRequest, stop_on_signals
from genrec_jax.data.sequences import UserSequences
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.evaluation.evaluate import evaluate_split
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models import load_family
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs import fingerprints
from genrec_jax.runs.checkpoint import Checkpoints
from genrec_jax.runs.dataset import check_answers, load_sequences, log_statistics
from genrec_jax.runs.identifiers import build_catalogue
from genrec_jax.runs.model import ModelSetup, log_parameters
from genrec_jax.runs.run_folder import METRIC, MetricsWriter, RunFolder
from genrec_jax.runs.run_format import RESULT_INDEPENDENT_KEYS
from genrec_jax.training.phase import PhaseRunner, Progress, last_objective, make_phases

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run with its result, for reports."""

    config: RunConfig
    folder: RunFolder
    result: dict[str, Any]  # results.json
    is_new: bool  # whether this process finished it
    load: Callable[[], tuple[UserSequences, Catalogue]]  # loads its dataset and identifiers


Report = Callable[[FinishedRun], None]  # writes the report of a finished run


def train(config: RunConfig, folder: RunFolder, report: Report) -> None:
    """Train a run, or resume the one in the folder; then test its best checkpoint.

    Args:
        config: the run's config.
        folder: the run directory, new or with a run of the same config.
        report: called with the finished run while the run directory is locked. If the run was
            already finished, it is called immediately.

    Raises:
        InputError: the config, the data or the folder cannot be used, or another process is
            training in the folder.
        DiskError: the folder cannot be written.
        NotFiniteError: training diverged.
        Stopped: SIGTERM or SIGINT stopped the run; rerun the command to resume from the last step.
    """
    folder.check_usable(config, ignored=RESULT_INDEPENDENT_KEYS)
    if results := processes.run_on_process_0(folder.read_results):
        report(FinishedRun(config, folder, results, False, partial(_load_finished, config, folder)))
        return
    devices = Devices.all(config.table_parts())
    check_batches(config, devices)
    with (
        stop_on_signals() as stop,
        locked(folder.lock, f"--workdir={folder.path}"),
        folder.log_lines() as lines,
        Checkpoints(folder.checkpoints, config.keep_checkpoints) as checkpoints,
    ):
        # ------------------------------------------------------------ data and identifiers
        load = partial(load_all, config, devices)
        sequences, pretrained, setup = processes.barrier(load)
        stop.check()
        run_fingerprints = fingerprints.of_run(sequences, setup.catalogue)
        processes.check_same(repr(run_fingerprints), "dataset, numbering or tokenizer")
        settings = jax_settings.recorded()
        processes.check_same(repr(settings), "setting of JAX or XLA")
        resuming = bool(processes.run_on_process_0(checkpoints.steps))
        if resuming:
            folder.check_fingerprints(run_fingerprints)
            folder.check_jax_settings(settings)
            params = None
        else:
            with on_host():
                start = partial(setup.start_params, sequences, pretrained)
                params = processes.barrier(start)
            params = devices.put_params(params)
        stop.check()
        folder.create(config, setup.shape)
        folder.open_log(lines)
        if not resuming:
            folder.write_identifiers(setup.catalogue, run_fingerprints)
            folder.write_jax_settings(settings)
        log_statistics(sequences)
        _, like = setup.graph_and_like
        log_parameters(like, setup.shape.dtype)
        if devices.count > 1:
            log.info("%s", devices)

        # ------------------------------------------------------------ progress of the run
        checkpoints.clean()
        progress = Progress()
        if (newest := checkpoints.newest_intact()) is not None:
            progress = Progress(**checkpoints.progress(newest))
            log.info("resuming from the checkpoint of step %d", progress.step)
        folder.drop_metrics_after(progress.step, progress.validation_due)

        # ------------------------------------------------------------ pretrain, finetune
        ranker = Ranker(
            setup, config.evaluate, config.data.buckets, last_objective(config), devices=devices
        )
        shared = (setup, sequences, ranker, checkpoints)
        traces = folder.path / "profile" if config.profile else None
        with contextlib.closing(MetricsWriter(folder)) as writer:
            for phase in make_phases(config, sequences, setup.lengths):
                runner = PhaseRunner(config, phase, *shared, writer, stop)
                params, progress = runner.run(params, progress, traces)
        del params

        # ------------------------------------------------------------ test the best checkpoint
        stop.check()
        ranker.params = checkpoints.params(best_step(progress), devices.like(like))
        ranker.objective = last_objective(config)
        result = test(config, folder, sequences, ranker, progress, stop)
        stop.check()  # if stopped here, rerunning the command writes the report
        report(FinishedRun(config, folder, result, True, lambda: (sequences, setup.catalogue)))


def _load_finished(config: RunConfig, folder: RunFolder) -> tuple[UserSequences, Catalogue]:
    return load_sequences(config.data), folder.read_identifiers()


def load_all(config: RunConfig, devices: Devices) -> tuple[UserSequences, Path | None, ModelSetup]:
    """Load the dataset and build the model's setup.

    Returns:
        The dataset, the folder of the pretrained weights (None: train from scratch), and the model
        without its parameters.

    Raises:
        InputError: the dataset cannot be read or the model cannot be trained on it.
    """
    sequences = load_sequences(config.data)
    check_answers(config, sequences)
    pretrained = load_family(config.model.family).pretrained(config)
    catalogue = build_catalogue(config, sequences, pretrained)
    setup = ModelSetup.new(config, catalogue, sequences, pretrained)
    devices.check_width(setup.shape.width)
    return sequences, pretrained, setup


def check_batches(config: RunConfig, devices: Devices) -> None:
    """Raise InputError for a batch that cannot be split evenly over the devices."""
    devices.check_batch_size("config.evaluate.batch_size", config.evaluate.batch_size)
    for name, phase in config.phases().items():
        if phase.epochs:
            parts = f" / accumulate = {phase.accumulate}" * (phase.accumulate > 1)
            key = f"config.{name}.batch_size{parts}"
            devices.check_batch_size(key, phase.batch_size // phase.accumulate)


def best_step(progress: Progress) -> int:
    """Return the step of the best checkpoint of a run with all phases complete."""
    assert progress.best_step is not None  # the end of the last phase is a validation
    return progress.best_step


def test(
    config: RunConfig,
    folder: RunFolder,
    sequences: UserSequences,
    ranker: Ranker,
    progress: Progress,
    stop: StopRequest,
) -> dict[str, Any]:
    """Evaluate the best checkpoint on the test split, and write results.json.

    Args:
        config: the run's config.
        folder: the run directory.
        sequences: the dataset.
        ranker: the ranker, with the parameters of the best checkpoint.
        progress: the run's progress, with all phases complete.
        stop: the request to stop the process.

    Returns:
        The content of results.json, whose existence marks the run as finished.
    """

    def watch(batches: Iterable[Any], label: str, total: int) -> Iterable[Any]:
        return stop.checked(track(batches, label, total))

    best = best_step(progress)
    log.info(
        "testing the checkpoint of step %d (validation %s %.5f)", best, METRIC, progress.best_score
    )
    path = folder.predictions / "test.parquet"
    result = evaluate_split(ranker, config, sequences, "test", path, watch, stop.check)
    stop.check()
    result["counts"]["steps"] = progress.step
    result["counts"]["best_step"] = best
    result["seconds"]["training"] = round(progress.seconds, 2)
    folder.write_results(result)
    return result
