"""The story of one run: data → identifiers → model → pretrain → finetune → test."""

import contextlib
import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from genrec_jax import fingerprints, jax_settings, processes
from genrec_jax.config import Config
from genrec_jax.data.sequences import UserSequences
from genrec_jax.devices import Devices, on_host
from genrec_jax.evaluate import evaluate_split, result_table
from genrec_jax.experiment import (
    build_catalogue,
    check_answers,
    load_sequences,
    log_parameters,
    log_statistics,
    longest_trained,
    model_shape,
    pretrained_folder,
    start_params,
    start_vectors,
)
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.model.genrec import GenRecShape, abstract_model
from genrec_jax.phase import PhaseRunner, Progress, make_phases
from genrec_jax.progress import track
from genrec_jax.recommender import Recommender
from genrec_jax.run_folder import MetricsWriter, RunFolder
from genrec_jax.run_lock import locked
from genrec_jax.run_page import write_page
from genrec_jax.signals import StopRequest, stop_on_signals
from genrec_jax.training.checkpoint import METRIC, Checkpoints

log = logging.getLogger(__name__)

# Keys that change how a run is computed and not its result: a run may go on with others.
SAME_RESULT = (
    "config.steps_per_call",
    "config.model_parallel",
    "config.profile",
    "config.checkpoint_every_steps",
    "config.checkpoint_every_minutes",
    "config.keep_checkpoints",
)


def train(config: Config, folder: RunFolder) -> None:
    """Train as the config says, or go on with the run that the folder holds; then test the best.

    Raises:
        InputError: the config, the data or the folder do not do; another process is at work there.
        DiskError: the folder cannot be written.
        NotFiniteError: training diverged.
        Stopped: by SIGTERM or SIGINT; the same command goes on from the last step.
    """
    folder.check_usable(config, ignored=SAME_RESULT)
    if results := processes.once(folder.read_results):
        log.info("%s holds a finished run:\n%s", folder.path, result_table(results))
        if "intervals" in results and not folder.report.is_file():  # cut short before its page
            catalogue = Catalogue.load(folder.identifiers)
            write_page(config, folder, load_sequences(config.data), catalogue)
        return
    devices = Devices.all(config.model_parallel)
    check_batches(config, devices)
    with (
        stop_on_signals() as stop,
        locked(folder.lock, f"--workdir={folder.path}"),
        folder.log_lines() as lines,
        Checkpoints(folder.checkpoints, config.keep_checkpoints) as checkpoints,
    ):
        # ------------------------------------------------------------ data and identifiers
        load = partial(load_all, config, devices)
        sequences, pretrained, catalogue, shape = processes.together(load)
        stop.heed()
        found = fingerprints.of_run(sequences, catalogue)
        processes.check_same(repr(found), "dataset, numbering or tokenizer")
        settings = jax_settings.recorded()
        processes.check_same(repr(settings), "setting of JAX or XLA")
        goes_on = bool(processes.once(checkpoints.steps))
        if goes_on:
            folder.check_fingerprints(found)
            folder.check_jax_settings(settings)
            params = None
        else:
            with on_host():
                params = processes.together(
                    lambda: start_params(
                        shape,
                        catalogue,
                        pretrained,
                        config.seed,
                        start_vectors(config, sequences),
                    )
                )
            params = devices.put_params(params)
        stop.heed()
        folder.create(config, shape)
        folder.open_log(lines)
        if not goes_on:
            catalogue.save(folder.identifiers)
            folder.write_fingerprints(found)
            folder.write_jax_settings(settings)
        log_statistics(sequences)
        _, like = abstract_model(shape, catalogue.table.n_users, catalogue.table.n_items)
        log_parameters(like, shape.dtype)
        if devices.count > 1:
            log.info("%s", devices)

        # ------------------------------------------------------------ where the run stands
        checkpoints.clean()
        progress = Progress()
        if (newest := checkpoints.newest_whole()) is not None:
            progress = Progress(**checkpoints.progress(newest))
            log.info("going on from the checkpoint of step %d", progress.step)
        folder.drop_metrics_after(progress.step, progress.validation_due)

        # ------------------------------------------------------------ pretrain, finetune
        recommender = Recommender(
            catalogue,
            shape,
            config.evaluate,
            config.model.max_tokens,
            config.data.buckets,
            devices=devices,
        )
        work = (catalogue, shape, sequences, recommender, checkpoints)
        traces = folder.path / "profile" if config.profile else None
        with contextlib.closing(MetricsWriter(folder)) as writer:
            for phase in make_phases(config, sequences, catalogue):
                runner = PhaseRunner(config, phase, *work, writer, stop)
                params, progress = runner.run(params, progress, traces)
        del params

        # ------------------------------------------------------------ test the best
        stop.heed()
        recommender.params = checkpoints.params(best_step(progress), devices.like(like))
        recommender.causal = config.reads_causally
        test(config, folder, sequences, recommender, progress, stop)


def load_all(
    config: Config, devices: Devices
) -> tuple[UserSequences, Path | None, Catalogue, GenRecShape]:
    """The dataset, the folder of the pretrained weights, the catalogue and the model's shape."""
    sequences = load_sequences(config.data)
    check_answers(config, sequences)
    pretrained = pretrained_folder(config.model)
    catalogue = build_catalogue(config, sequences, pretrained)
    longest = longest_trained(config, sequences, catalogue.table)
    shape = model_shape(config.model, catalogue, pretrained, longest)
    devices.check_width(shape.d_model)
    return sequences, pretrained, catalogue, shape


def check_batches(config: Config, devices: Devices) -> None:
    """Raise InputError for a batch that cannot be split evenly over the devices."""
    devices.check_divides("config.evaluate.batch_size", config.evaluate.batch_size)
    for name, phase in (("pretrain", config.pretrain), ("finetune", config.finetune)):
        if phase.epochs:
            parts = f" / accumulate = {phase.accumulate}" * (phase.accumulate > 1)
            key = f"config.{name}.batch_size{parts}"
            devices.check_divides(key, phase.batch_size // phase.accumulate)


def best_step(progress: Progress) -> int:
    """Of a run whose phases are through."""
    assert progress.best_step is not None  # the end of the last phase is a validation
    return progress.best_step


def test(
    config: Config,
    folder: RunFolder,
    sequences: UserSequences,
    recommender: Recommender,
    progress: Progress,
    stop: StopRequest,
) -> None:
    """Rank the test split with the recommender; the result finishes the run."""

    def watch(batches: Iterable[Any], label: str, total: int) -> Iterable[Any]:
        return stop.heeded(track(batches, label, total))

    best = best_step(progress)
    log.info(
        "testing the checkpoint of step %d (validation %s %.5f)", best, METRIC, progress.best_score
    )
    path = folder.predictions / "test.parquet"
    result = evaluate_split(recommender, config, sequences, "test", path, watch, stop.heed)
    stop.heed()
    result["counts"]["steps"] = progress.step
    result["counts"]["best_step"] = best
    result["seconds"]["training"] = round(progress.seconds, 2)
    folder.write_results(result)
    stop.heed()  # the page of a run with a result is made by the next command
    write_page(config, folder, sequences, recommender.catalogue)
    log.info(
        "%d steps in %.0f s, test ranked in %.0f s\n\n%s",
        progress.step,
        result["seconds"]["training"],
        result["seconds"]["ranking"],
        result_table(result),
    )
