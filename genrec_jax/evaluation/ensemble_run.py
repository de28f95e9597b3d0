"""Evaluation of the ensemble of a finished run and the item-transition kNN.

The ensemble's settings are chosen on the validation users (ensembles.py), and the test users are
ranked only once. `RUN/results_ensemble.json` stores the result and the validation metric of every
candidate, `RUN/predictions/ensemble_test.parquet` the rankings.
"""

import dataclasses
import json
import logging
import time
from typing import Any

import numpy as np
from jaxtyping import Int

from genrec_jax.core.config_fields import flat
from genrec_jax.core.devices import Devices
from genrec_jax.core.disk import write_atomically
from genrec_jax.core.errors import InputError
from genrec_jax.core.progress import track
from genrec_jax.data.sequences import Examples, UserSequences, without_last
from genrec_jax.decoding.predictions import check_writable, write_rankings
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.decoding.ranking import Rankings
from genrec_jax.evaluation.ensembles import (
    MODEL,
    Ensemble,
    ScoreChunks,
    choose_ensemble,
    ensemble_rankings,
)
from genrec_jax.evaluation.evaluate import identifier_numbers, search_description, split_examples
from genrec_jax.evaluation.summary import evaluation_summary
from genrec_jax.evaluation.transition_settings import TUNING_METRIC, choose_settings
from genrec_jax.models.heuristics.baselines import baseline_rankings
from genrec_jax.models.heuristics.transitions import TransitionSettings
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs import fingerprints
from genrec_jax.runs.config import with_evaluate
from genrec_jax.runs.dataset import load_log_metadata, load_sequences
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.runs.run_format import DATA_DIR_KEY, RESULT_INDEPENDENT_KEYS

log = logging.getLogger(__name__)

RESULTS = "results_ensemble.json"
# Keys in which the weight-tuning run may differ. `evaluate` is taken from the evaluated run.
MAY_DIFFER = (
    *(*RESULT_INDEPENDENT_KEYS, DATA_DIR_KEY),
    *("config.seed", "config.indexing_seed", "config.evaluate.", "config.log_every_steps"),
)


def evaluate_ensemble(
    config: RunConfig, folder: RunFolder, tuning_folder: RunFolder | None = None
) -> dict[str, Any]:
    """Choose the ensemble's settings on validation, rank the test users, and write both files.

    Args:
        config: the config of the run.
        folder: the directory of the run.
        tuning_folder: the directory of the weight-tuning run, whose probabilities are used to
            choose the settings; None: those of the run itself.

    Returns:
        The content of results_ensemble.json.

    Raises:
        InputError: a run is not finished, the run was trained on the validation items, the
            weight-tuning run has another config or dataset, or an output file exists that was not
            written by this program.
    """
    check_can_tune(config, f"--workdir={folder.path}: ")
    if tuning_folder is not None:
        _check_tuning_run(config, tuning_folder)
    path = folder.predictions / "ensemble_test.parquet"
    check_writable(path, "--workdir")
    _check_finished(folder, "--workdir")
    sequences = load_sequences(config.data)
    folder.check_fingerprints(fingerprints.of_dataset(sequences))
    if tuning_folder is not None:
        shortened = fingerprints.of_dataset(without_last(sequences, 1))
        tuning_folder.check_fingerprints(shortened, "--chooser")
    devices = Devices.for_ranking(config.table_parts())
    ranker = Ranker.load(folder.path, None, config, devices)
    tuning_ranker = ranker  # the same object, so that its programs are compiled only once
    if tuning_folder is not None:
        tuning_config = tuning_folder.read_config()
        tuning_config = with_evaluate(tuning_config, dataclasses.asdict(config.evaluate))
        tuning_ranker = Ranker.load(tuning_folder.path, None, tuning_config, devices)
    for loaded in {ranker, tuning_ranker}:
        loaded.catalogue.check_same_dataset(sequences, load_log_metadata(config.data))

    exclude = config.evaluate.exclude_history
    settings = choose_settings(sequences, exclude_history=exclude)
    validation = split_examples(config, sequences, "validation")
    started = time.monotonic()
    ensemble, curve = choose_ensemble(
        _scores(tuning_ranker, validation, "validation"), sequences, validation, settings, exclude
    )
    log.info(
        "selected on %d validation users: %s, %s %.5f",
        len(validation),
        ensemble,
        TUNING_METRIC,
        curve[ensemble],
    )
    examples = split_examples(config, sequences, "test")
    model_only = Ensemble(MODEL)
    rankings = ensemble_rankings(
        *(_scores(ranker, examples, "test"), sequences, examples, settings, exclude),
        *((model_only, ensemble), config.evaluate.top_k),
    )
    seconds = time.monotonic() - started
    result = {
        "model": ranker.setup.family.title,
        "dataset": sequences.name,
        **search_description(config),
        "split": "test",
        "evaluate": dataclasses.asdict(config.evaluate),
        "ensemble": dataclasses.asdict(ensemble),
        "kNN": str(settings),
        "chooser": None if tuning_folder is None else str(tuning_folder.path),
        "validation": {
            "users": len(validation),
            "metrics": {TUNING_METRIC: curve[ensemble]},
            "curve": [
                dataclasses.asdict(candidate) | {TUNING_METRIC: value}
                for candidate, value in curve.items()
            ],
        },
        **_summary(
            *(config, ranker, sequences, examples, settings),
            *(rankings[ensemble][0], rankings[model_only][0]),
        ),
        "counts": {"users": len(examples)},
        "seconds": {"scoring and combining": round(seconds, 2)},
    }
    (folder.path / RESULTS).unlink(
        missing_ok=True
    )  # it describes the rankings that are replaced next
    write_rankings(path, ranker, examples, Rankings(*rankings[ensemble]))
    write_atomically(folder.path / RESULTS, json.dumps(result, indent=2) + "\n")
    return result


def check_can_tune(config: RunConfig, where: str = "") -> None:
    """Check that a run did not train on the validation items, which choose the ensemble's settings.

    Args:
        config: the config of the run.
        where: the prefix of the error message.

    Raises:
        InputError: the run was finetuned on the validation items.
    """
    if config.finetune.epochs and config.finetune.include_validation_item:
        raise InputError(
            f"{where}config.finetune.include_validation_item: found True, so the run was finetuned "
            "on the validation items that would choose the ensemble's settings, expected False"
        )


def _check_finished(folder: RunFolder, flag: str) -> None:
    """Raise InputError if the directory given by a flag has no finished run."""
    if folder.read_results() is None:
        raise InputError(
            f"{flag}={folder.path}: found no finished run, expected a directory with results.json"
        )


def _check_tuning_run(config: RunConfig, folder: RunFolder) -> None:
    """Raise InputError unless the run is finished and has the config of a weight-tuning run.

    Its config must equal `config` except for MAY_DIFFER, with `data.drop_last` one larger.
    """
    _check_finished(folder, "--chooser")
    tuning_config = folder.read_config()
    if tuning_config.model.family != config.model.family:
        raise InputError(
            f"--chooser={folder.path}: found a run of the model family "
            f"{tuning_config.model.family}, expected one of {config.model.family}"
        )
    found = flat(tuning_config.to_dict())
    expected = flat(config.to_dict()) | {"config.data.drop_last": config.data.drop_last + 1}
    differing = [
        f"{key}={found.get(key)!r}, expected {value!r}"
        for key, value in expected.items()
        if found.get(key) != value and not key.startswith(MAY_DIFFER)
    ]
    if differing:
        raise InputError(f"--chooser={folder.path}: found {'; '.join(differing)}")


def _scores(ranker: Ranker, examples: Examples, label: str) -> ScoreChunks:
    """Return the model's log-probabilities of all items, computed chunk by chunk."""
    return ranker.score_chunks(ranker.plan(examples, label), label, track)


def _summary(
    config: RunConfig,
    ranker: Ranker,
    sequences: UserSequences,
    examples: Examples,
    settings: TransitionSettings,
    ensemble_items: Int[np.ndarray, "n k"],
    model_items: Int[np.ndarray, "n k"],
) -> dict[str, Any]:
    """Compare the ensemble's rankings with those of the model alone and the baselines."""
    numbers, exclude = identifier_numbers(config, ranker.catalogue), config.evaluate.exclude_history
    top_k = ensemble_items.shape[1]
    baselines = {ranker.setup.family.title: model_items}
    baselines |= baseline_rankings(sequences, examples, numbers, settings, top_k, exclude)
    return evaluation_summary(sequences, examples, ensemble_items, baselines)
