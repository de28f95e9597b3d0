"""The ensemble of a finished run with the item-transition kNN.

The combination method and its weight are chosen on the validation users (ensembles.py); then the
test users are ranked once. `RUN/results_ensemble.json` holds the result with the whole validation
curve, `RUN/predictions/ensemble_test.parquet` the rankings.
"""

import dataclasses
import json
import logging
import time
from typing import Any

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
# Keys in which a weight-tuning run may differ; `evaluate` is taken from the run itself.
MAY_DIFFER = (
    *(*RESULT_INDEPENDENT_KEYS, DATA_DIR_KEY),
    *("config.seed", "config.indexing_seed", "config.evaluate.", "config.log_every_steps"),
)


def evaluate_ensemble(
    config: RunConfig, folder: RunFolder, chooser: RunFolder | None = None
) -> dict[str, Any]:
    """Choose the ensemble on validation, rank the test users, and write both files.

    Args:
        config: the run's config.
        folder: the run's directory.
        chooser: the directory of the weight-tuning run, whose probabilities choose the weight;
            None: the run itself.

    Returns:
        The content of results_ensemble.json.

    Raises:
        InputError: there is no finished run, its weight cannot be chosen on validation, the
            weight-tuning run has another config or dataset, or the output files are not ours.
    """
    check_can_tune(config, f"--workdir={folder.path}: ")
    if chooser is not None:
        _check_chooser(config, chooser)
    path = folder.predictions / "ensemble_test.parquet"
    check_writable(path, "--workdir")
    _check_finished(folder, "--workdir")
    sequences = load_sequences(config.data)
    folder.check_fingerprints(fingerprints.of_dataset(sequences))
    if chooser is not None:
        earlier = fingerprints.of_dataset(without_last(sequences, 1))
        chooser.check_fingerprints(earlier, "--chooser")
    devices = Devices.for_ranking(config.table_parts())
    ranker = Ranker.load(folder.path, None, config, devices)
    tuner = ranker  # the same object, so that its programs are compiled once
    if chooser is not None:
        changed = with_evaluate(chooser.read_config(), dataclasses.asdict(config.evaluate))
        tuner = Ranker.load(chooser.path, None, changed, devices)
    for one in {ranker, tuner}:
        one.catalogue.check_same_dataset(sequences, load_log_metadata(config.data))

    exclude = config.evaluate.exclude_history
    settings = choose_settings(sequences, exclude_history=exclude)
    validation = split_examples(config, sequences, "validation")
    started = time.monotonic()
    ensemble, curve = choose_ensemble(
        _scores(tuner, validation, "validation"), sequences, validation, settings, exclude
    )
    log.info("chosen on %d validation users: %s, %.5f", len(validation), ensemble, curve[ensemble])
    examples = split_examples(config, sequences, "test")
    kinds = (Ensemble(MODEL), ensemble)
    rankings = ensemble_rankings(
        *(_scores(ranker, examples, "test"), sequences, examples, settings, exclude),
        *(kinds, config.evaluate.top_k),
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
        "chooser": None if chooser is None else str(chooser.path),
        "validation": {
            "users": len(validation),
            "metrics": {TUNING_METRIC: curve[ensemble]},
            "curve": [dataclasses.asdict(one) | {TUNING_METRIC: curve[one]} for one in curve],
        },
        **_summary(
            *(config, ranker, sequences, examples, settings),
            *(rankings[ensemble][0], rankings[kinds[0]][0]),
        ),
        "counts": {"users": len(examples)},
        "seconds": {"scoring and combining": round(seconds, 2)},
    }
    (folder.path / RESULTS).unlink(missing_ok=True)  # it describes the rankings being replaced
    write_rankings(path, ranker, examples, Rankings(*rankings[ensemble]))
    write_atomically(folder.path / RESULTS, json.dumps(result, indent=2) + "\n")
    return result


def check_can_tune(config: RunConfig, where: str = "") -> None:
    """Raise InputError, prefixed with `where`, for a run that trained on the validation items."""
    if config.finetune.epochs and config.finetune.include_validation_item:
        raise InputError(
            f"{where}config.finetune.include_validation_item: found True, so the run was finetuned "
            "on the validation items that would choose the ensemble's weight, expected False"
        )


def _check_finished(folder: RunFolder, flag: str) -> None:
    if folder.read_results() is None:
        raise InputError(
            f"{flag}={folder.path}: found no finished run, expected a directory with results.json"
        )


def _check_chooser(config: RunConfig, chooser: RunFolder) -> None:
    """Raise InputError unless the run is finished and differs as a weight-tuning run must."""
    _check_finished(chooser, "--chooser")
    theirs = chooser.read_config()
    if theirs.model.family != config.model.family:
        raise InputError(
            f"--chooser={chooser.path}: found a run of the model family {theirs.model.family}, "
            f"expected one of {config.model.family}"
        )
    found = flat(theirs.to_dict())
    expected = flat(config.to_dict()) | {"config.data.drop_last": config.data.drop_last + 1}
    differing = [
        f"{key}={found.get(key)!r}, expected {value!r}"
        for key, value in expected.items()
        if found.get(key) != value and not key.startswith(MAY_DIFFER)
    ]
    if differing:
        raise InputError(f"--chooser={chooser.path}: found {'; '.join(differing)}")


def _scores(ranker: Ranker, examples: Examples, label: str) -> ScoreChunks:
    return ranker.score_chunks(ranker.plan(examples, label), label, track)


def _summary(
    config: RunConfig,
    ranker: Ranker,
    sequences: UserSequences,
    examples: Examples,
    settings: TransitionSettings,
    ours: Any,
    alone: Any,
) -> dict[str, Any]:
    """Summarise the ensemble's rankings beside those of the model alone and the baselines."""
    numbers, exclude = identifier_numbers(config, ranker.catalogue), config.evaluate.exclude_history
    others = {ranker.setup.family.title: alone}
    others |= baseline_rankings(sequences, examples, numbers, settings, ours.shape[1], exclude)
    return evaluation_summary(sequences, examples, ours, others)
