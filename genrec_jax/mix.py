"""A finished run's probabilities mixed with those of the item-transition kNN.

    python -m genrec_jax.mix --workdir=RUN [--chooser=OTHER] [--config.evaluate.KEY=VALUE …]

Scores every item for the validation users, chooses way and weight there (measures/mixing.py), then
ranks the test users once. `RUN/results_mixed.json` holds the result with the whole validation
curve, `RUN/predictions/mixed_test.parquet` the lists; what a run was mixed with before is written
over. A run that was finetuned on the validation targets (`finetune.holdout=1`) is refused: no
weight can be chosen on them. GenRec's own row is that of exact ranking, whatever search the run's
config names.

A run was trained on the histories that its validation shows, and so may take less of the kNN there
than the test asks for. --chooser=OTHER, a run of the same config with `data.drop_last=1`, is asked
as the test will ask, on the same validation users: the newest item of a history is new to it. Its
seed may be another.

Exit codes: 0, done; 2, bad input; 74, the disk; 130 and 143, ended at once by SIGINT or SIGTERM:
the same command starts anew, and what was there before stays.
"""

import argparse
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from genrec_jax import fingerprints
from genrec_jax.config import Config
from genrec_jax.config_keys import flat
from genrec_jax.data.datasets import cache_dir
from genrec_jax.data.sequences import Examples, UserSequences, without_last
from genrec_jax.decoding.ranking import RankedLists
from genrec_jax.devices import Devices
from genrec_jax.endings import RESUMABLE, run_command
from genrec_jax.errors import InputError
from genrec_jax.evaluate import MODEL, split_examples, watch
from genrec_jax.experiment import load_names, load_sequences
from genrec_jax.jax_settings import pin
from genrec_jax.main import check_arguments, define_flags, parse
from genrec_jax.measures import mixing
from genrec_jax.measures.findings import findings
from genrec_jax.measures.mixing import Mix, ScoreChunks, choose_mix, mixed_lists
from genrec_jax.measures.references import reference_lists
from genrec_jax.measures.report import format_table
from genrec_jax.measures.transitions import CHOSEN_BY, TransitionSettings, choose_settings
from genrec_jax.predictions import check_writable, write_lists
from genrec_jax.progress import logging_to_console
from genrec_jax.recommender import Recommender
from genrec_jax.run_folder import MACHINE_KEY, RunFolder, write_atomically
from genrec_jax.run_lock import locked
from genrec_jax.train import SAME_RESULT

log = logging.getLogger("genrec_jax.mix")  # as a command too

RESULTS = "results_mixed.json"
# What a chooser may have otherwise; `evaluate` is this command's.
FREE_OF_CHOOSER = (
    *(*SAME_RESULT, MACHINE_KEY),
    *("config.seed", "config.indexing_seed", "config.evaluate.", "config.log_every_steps"),
)
MIXED = f"{MODEL} + kNN"


def mix_run(config: Config, folder: RunFolder, chooser: RunFolder | None = None) -> dict[str, Any]:
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
    devices = Devices.to_rank(config.model_parallel)
    recommender = Recommender.load(folder.path, None, config.evaluate, devices)
    judge = recommender  # the same, whose programs are compiled once
    if chooser is not None:
        judge = Recommender.load(chooser.path, None, config.evaluate, devices)
    for one in {recommender, judge}:
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
    mixes = (Mix(mixing.MODEL), mix)
    lists = mixed_lists(
        *(_scores(recommender, examples, "test"), sequences, examples, settings, exclude),
        *(mixes, config.evaluate.top_k),
    )
    seconds = time.monotonic() - started
    result = {
        "dataset": sequences.name,
        "indexing": config.indexing,
        "split": "test",
        "exclude_history": exclude,
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
            *(recommender, sequences, examples, settings, exclude),
            *(lists[mix][0], lists[mixes[0]][0]),
        ),
        "counts": {"users": len(examples)},
        "seconds": {"scoring and mixing": round(seconds, 2)},
    }
    (folder.path / RESULTS).unlink(missing_ok=True)  # it speaks of the lists from here on
    write_lists(path, recommender, examples, RankedLists(*lists[mix]))
    write_atomically(folder.path / RESULTS, json.dumps(result, indent=2) + "\n")
    return result


def check_mixable(config: Config, where: str = "") -> None:
    """Raise InputError, `where` in front, for a run trained on what would choose the weight."""
    if config.finetune.epochs and config.finetune.holdout == 1:
        raise InputError(
            f"{where}config.finetune.holdout: found 1, a run that was finetuned on the validation "
            "targets, which choose the weight of a mix, expected 2"
        )


def _check_finished(folder: RunFolder, flag: str) -> None:
    if folder.read_results() is None:
        raise InputError(
            f"{flag}={folder.path}: found no finished run there, expected one with its results.json"
        )


def _check_chooser(config: Config, chooser: RunFolder) -> None:
    """Raise InputError unless it is a finished run that differs as a chooser must."""
    _check_finished(chooser, "--chooser")
    found = flat(chooser.read_config().to_dict())
    expected = flat(config.to_dict()) | {"config.data.drop_last": config.data.drop_last + 1}
    differing = [
        f"{key}={found[key]!r}, expected {value!r}"
        for key, value in expected.items()
        if found[key] != value and not key.startswith(FREE_OF_CHOOSER)
    ]
    if differing:
        raise InputError(f"--chooser={chooser.path}: found {'; '.join(differing)}")


def _scores(recommender: Recommender, examples: Examples, label: str) -> ScoreChunks:
    return recommender.score_chunks(recommender.plan(examples, label), label, watch)


def _findings(
    recommender: Recommender,
    sequences: UserSequences,
    examples: Examples,
    settings: TransitionSettings,
    exclude_history: bool,
    ours: Any,
    alone: Any,
) -> dict[str, Any]:
    """The mixed lists beside those of the model alone and the lines to beat."""
    numbers = recommender.catalogue.indexing.item_numbers
    beat = reference_lists(
        *(sequences, examples, numbers, settings, ours.shape[1], exclude_history)
    )
    return findings(sequences, examples, ours, {MODEL: alone} | beat)


def mixed_table(result: dict[str, Any]) -> str:
    """What the command prints."""
    title = f"{result['dataset']}, {result['split']}, {result['counts']['users']} users"
    doubt = {metric: (high - low) / 2 for metric, (low, high) in result["intervals"].items()}
    rows = {MIXED: result["metrics"], "  ± half of the 95 % interval": doubt}
    curve = result["validation"]["curve"]
    by = f" by {result['chooser']}" if result["chooser"] else ""
    lines = [
        format_table(rows | result["references"], title),
        f"{Mix(**result['mix'])}; kNN: {result['kNN']}",
        f"chosen{by} for {CHOSEN_BY} of {result['validation']['users']} validation users:",
    ]
    fields = [field.name for field in dataclasses.fields(Mix)]
    for one in sorted(curve, key=lambda one: -one[CHOSEN_BY])[:5]:
        mix = Mix(**{name: one[name] for name in fields})
        lines.append(f"  {one[CHOSEN_BY]:.5f}  {mix}")
    return "\n".join(lines)


def run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="genrec_jax.mix", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--workdir", required=True, type=Path, metavar="RUN")
    parser.add_argument("--chooser", type=Path, metavar="OTHER", help="chooses on validation")
    found, changes = parser.parse_known_args(argv)
    for flag in changes:
        if not flag.startswith("--config.evaluate."):
            raise InputError(f"{flag}: not a flag, expected --config.evaluate.KEY=VALUE")
    flags = ["mix", f"--workdir={found.workdir}", *changes]
    check_arguments(flags)
    config = parse(define_flags(flags), flags)
    assert config is not None  # the run's own
    with locked(found.workdir / "mix.lock", f"--workdir={found.workdir}"):
        chooser = RunFolder(found.chooser) if found.chooser else None
        result = mix_run(config, RunFolder(found.workdir), chooser)
    log.info("\n%s\nwrote %s", mixed_table(result), found.workdir / RESULTS)


@logging_to_console()
def main(argv: Sequence[str]) -> int:
    pin()
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    return run_command(lambda: run(argv), RESUMABLE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
