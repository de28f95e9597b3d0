"""A checkpoint and a split → ranked lists → metrics, beside the lines to beat."""

import importlib.metadata
import json
import logging
import platform
import time
from pathlib import Path
from typing import Any, Literal

import jax

from genrec_jax.config import Config
from genrec_jax.data.sequences import (
    TEST_HOLDOUT,
    VALIDATION_HOLDOUT,
    Examples,
    UserSequences,
    next_item_examples,
)
from genrec_jax.data.synthetic import oracle_lists
from genrec_jax.decoding.ranking import RankedLists
from genrec_jax.errors import InputError
from genrec_jax.experiment import load_sequences, sample_users, synthetic_spec
from genrec_jax.measures.metrics import metrics
from genrec_jax.measures.references import next_number_lists, popularity_lists
from genrec_jax.measures.report import format_table
from genrec_jax.progress import track
from genrec_jax.recommender import Recommender
from genrec_jax.run_folder import RunFolder, write_atomically

log = logging.getLogger(__name__)

Split = Literal["validation", "test"]
MODEL = "GenRec"
PACKAGES = ("genrec_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def watch(batches: Any, label: str, total: int) -> Any:
    return track(batches, label, total)


def split_examples(config: Config, sequences: UserSequences, split: Split) -> Examples:
    """The users of a split, or a seeded sample of them as the config says."""
    if split == "test":
        return sample_users(
            next_item_examples(sequences, TEST_HOLDOUT), config.evaluate.users, config.seed
        )
    return sample_users(
        next_item_examples(sequences, VALIDATION_HOLDOUT),
        config.evaluate.validation_users,
        config.seed,
    )


def evaluate_split(
    recommender: Recommender, config: Config, sequences: UserSequences, split: Split
) -> tuple[dict[str, Any], Examples, RankedLists]:
    """The result of one split: the model's metrics and those of the references.

    Returns the result as results.json holds it, the examples, and the model's lists for them.
    """
    started = time.monotonic()
    examples = split_examples(config, sequences, split)
    lists = recommender.rank(recommender.plan(examples, split), split, watch)
    seconds = time.monotonic() - started
    top_k = config.evaluate.top_k
    references = {"popularity": popularity_lists(sequences, examples, top_k)}
    if config.data.name != "synthetic":
        numbers = recommender.catalogue.indexing.item_numbers
        references["largest number + 1, …"] = next_number_lists(numbers, examples, top_k)
    else:
        spec = synthetic_spec(config.data)
        references["oracle"] = oracle_lists(spec, examples, top_k)
    result = {
        "dataset": sequences.name,
        "indexing": config.indexing,
        "split": split,
        "search": config.evaluate.search,
        "beams": config.evaluate.beams,
        "metrics": metrics(lists.items, examples.targets),
        "references": {
            name: metrics(ranked, examples.targets) for name, ranked in references.items()
        },
        "counts": {
            "users": len(examples),
            "users_of_dataset": sequences.n_users,
            "items": sequences.n_items,
            "interactions": len(sequences.items),
            "empty_places": int((lists.items < 0).sum()),
        },
        "seconds": {"ranking": round(seconds, 2)},
        "versions": versions(),
    }
    return result, examples, lists


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found, "device": jax.devices()[0].device_kind}


def result_table(result: dict[str, Any]) -> str:
    """What training and evaluation both print."""
    counts = result["counts"]
    title = f"{result['dataset']}, {result['split']}, {counts['users']} users"
    table = format_table({MODEL: result["metrics"], **result["references"]}, title)
    empty = counts["empty_places"]
    note = f"{empty} places of the lists name no item\n" if empty else ""
    note += f"indexing {result['indexing']}, {result['search']} search, {result['beams']} beams"
    if result["indexing"] == "published" and result["dataset"] in ("beauty", "sports", "yelp"):
        note += (
            "\nThe published ids leak the answer: 'largest number + 1, …' learns nothing "
            "(README, 'What the figures mean')."
        )
    return f"{table}\n{note}"


def write_predictions(
    path: Path, recommender: Recommender, examples: Examples, lists: RankedLists
) -> None:
    """A JSON line an example: user, target (where known), items and scores, by the dataset's ids.

    Raises:
        InputError: the file cannot be written.
    """
    lines = []
    ids = recommender.catalogue
    for row in range(len(examples)):
        named = recommender.named(lists.items[row], lists.scores[row])
        line: dict[str, Any] = {"user": int(ids.user_ids[examples.users[row]])}
        if examples.targets[row] >= 0:
            line["target"] = int(ids.item_ids[examples.targets[row]])
        line["items"] = [one.item for one in named]
        line["scores"] = [round(one.score, 6) for one in named]
        lines.append(json.dumps(line) + "\n")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(lines))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from None
    log.info("wrote %d ranked lists to %s", len(lines), path)


def evaluate(config: Config, folder: RunFolder, split: Split, step: int | None) -> None:
    """Restore a run's checkpoint, rank a split and print the table that training printed.

    Args:
        config: the run's, with perhaps another `evaluate` part.
        folder: the run.
        split: `test` or `validation`.
        step: of the checkpoint; the best by validation if None.
    """
    sequences = load_sequences(config.data)
    recommender = Recommender.load(folder.path, step, config.evaluate)
    recommender.catalogue.check_same_dataset(sequences)
    result, examples, lists = evaluate_split(recommender, config, sequences, split)
    # Beside the lists of the training run, which results.json speaks of.
    path = folder.predictions / f"evaluate_{split}.jsonl"
    write_predictions(path, recommender, examples, lists)
    log.info("\n%s", result_table(result))
