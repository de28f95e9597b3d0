"""A finished run's probabilities combined with those of the item-transition kNN.

The combination method and its weight are chosen on the validation users (ensembles.py), then the
test users are ranked once. `RUN/results_mixed.json` holds the result with the whole validation
curve, `RUN/predictions/mixed_test.parquet` the lists.
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
from genrec_jax.decoding.predictions import check_writable, write_lists
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.decoding.ranking import RankedLists
from genrec_jax.evaluation import ensembles
from genrec_jax.evaluation.ensembles import Mix, ScoreChunks, choose_mix, mixed_lists
from genrec_jax.evaluation.evaluate import described, split_examples, written_numbers
from genrec_jax.evaluation.summary import findings
from genrec_jax.evaluation.transition_settings import CHOSEN_BY, choose_settings
from genrec_jax.models.heuristics.baselines import reference_lists
from genrec_jax.models.heuristics.transitions import TransitionSettings
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs import fingerprints
from genrec_jax.runs.config import with_evaluate
from genrec_jax.runs.dataset import load_names, load_sequences
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.runs.run_format import MACHINE_KEY, SAME_RESULT

log = logging.getLogger(__name__)

RESULTS = "results_mixed.json"
# What a chooser may have otherwise; `evaluate` is this command's.
FREE_OF_CHOOSER = (
    *(*SAME_RESULT, MACHINE_KEY),
    *("config.seed", "config.indexing_seed", "config.evaluate.", "config.log_every_steps"),
)


def mix_run(
    config: RunConfig, folder: RunFolder, chooser: RunFolder | None = None
) -> dict[str, Any]:
    """Choose on validation, rank the test, write both files; returns what the JSON file holds.

    Args:
        config: of the run.
        folder: of the run.
        chooser: of the run whose probabilities are mixed to choose by; None: the same.

    Raises:
        InputError: no finished run there, one whose weight cannot be chosen, a chooser of another
            config, other data, or files that cannot be written.
    """
    check_mixable(config, f"--workdir={folder.path}: ")
    if chooser is not None:
        _check_chooser(config, chooser)
    path = folder.predictions / "mixed_test.parquet"
    check_writable(path, "--workdir")
    _check_finished(folder, "--workdir")
    sequences = load_sequences(config.data)
    folder.check_fingerprints(fingerprints.of_dataset(sequences))
    if chooser is not None:
        earlier = fingerprints.of_dataset(without_last(sequences, 1))
        chooser.check_fingerprints(earlier, "--chooser")
    devices = Devices.to_rank(config.table_parts())
    ranker = Ranker.load(folder.path, None, config, devices)
    judge = ranker  # the same, whose programs are compiled once
    if chooser is not None:
        changed = with_evaluate(chooser.read_config(), dataclasses.asdict(config.evaluate))
        judge = Ranker.load(chooser.path, None, changed, devices)
    for one in {ranker, judge}:
        one.catalogue.check_same_dataset(sequences, load_names(config.data))

    exclude = config.evaluate.exclude_history
    settings = choose_settings(sequences, exclude_history=exclude)
    validation = split_examples(config, sequences, "validation")
    started = time.monotonic()
    mix, curve = choose_mix(
        _scores(judge, validation, "validation"), sequences, validation, settings, exclude
    )
    log.info("chosen on %d validation users: %s, %.5f", len(validation), mix, curve[mix])
    examples = split_examples(config, sequences, "test")
    mixes = (Mix(ensembles.MODEL), mix)
    lists = mixed_lists(
        *(_scores(ranker, examples, "test"), sequences, examples, settings, exclude),
        *(mixes, config.evaluate.top_k),
    )
    seconds = time.monotonic() - started
    result = {
        "model": ranker.setup.family.title,
        "dataset": sequences.name,
        **described(config),
        "split": "test",
        "evaluate": dataclasses.asdict(config.evaluate),
        "mix": dataclasses.asdict(mix),
        "kNN": str(settings),
        "chooser": None if chooser is None else str(chooser.path),
        "validation": {
            "users": len(validation),
            "metrics": {CHOSEN_BY: curve[mix]},
            "curve": [dataclasses.asdict(one) | {CHOSEN_BY: curve[one]} for one in curve],
        },
        **_findings(
            *(config, ranker, sequences, examples, settings),
            *(lists[mix][0], lists[mixes[0]][0]),
        ),
        "counts": {"users": len(examples)},
        "seconds": {"scoring and mixing": round(seconds, 2)},
    }
    (folder.path / RESULTS).unlink(missing_ok=True)  # it speaks of the lists from here on
    write_lists(path, ranker, examples, RankedLists(*lists[mix]))
    write_atomically(folder.path / RESULTS, json.dumps(result, indent=2) + "\n")
    return result


def check_mixable(config: RunConfig, where: str = "") -> None:
    """Raise InputError, `where` in front, for a run trained on what would choose the weight."""
    if config.finetune.epochs and config.finetune.include_validation_item:
        raise InputError(
            f"{where}config.finetune.include_validation_item: found True, a run that was finetuned "
            "on the validation items, which choose the weight of a mix, expected False"
        )


def _check_finished(folder: RunFolder, flag: str) -> None:
    if folder.read_results() is None:
        raise InputError(
            f"{flag}={folder.path}: found no finished run there, expected one with its results.json"
        )


def _check_chooser(config: RunConfig, chooser: RunFolder) -> None:
    """Raise InputError unless it is a finished run that differs as a chooser must."""
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
        if found.get(key) != value and not key.startswith(FREE_OF_CHOOSER)
    ]
    if differing:
        raise InputError(f"--chooser={chooser.path}: found {'; '.join(differing)}")


def _scores(ranker: Ranker, examples: Examples, label: str) -> ScoreChunks:
    return ranker.score_chunks(ranker.plan(examples, label), label, track)


def _findings(
    config: RunConfig,
    ranker: Ranker,
    sequences: UserSequences,
    examples: Examples,
    settings: TransitionSettings,
    ours: Any,
    alone: Any,
) -> dict[str, Any]:
    """The mixed lists beside those of the model alone and the lines to beat."""
    numbers, exclude = written_numbers(config, ranker.catalogue), config.evaluate.exclude_history
    beat = reference_lists(sequences, examples, numbers, settings, ours.shape[1], exclude)
    return findings(sequences, examples, ours, {ranker.setup.family.title: alone} | beat)
