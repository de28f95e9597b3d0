"""A checkpoint and a split → ranked lists → metrics, beside the baselines."""

import importlib.metadata
import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax

from genrec_jax import __version__, fingerprints
from genrec_jax.config import Config
from genrec_jax.data.sequences import (
    TEST_HOLDOUT,
    VALIDATION_HOLDOUT,
    Examples,
    UserSequences,
    next_item_examples,
    sample_rows,
    sample_users,
)
from genrec_jax.data.synthetic import oracle_lists
from genrec_jax.decoding.ranking import RankedLists, Watch, join
from genrec_jax.devices import Devices
from genrec_jax.experiment import (
    load_names,
    load_sequences,
    synthetic_spec,
)
from genrec_jax.measures.findings import findings
from genrec_jax.measures.metrics import metrics
from genrec_jax.measures.references import reference_lists
from genrec_jax.measures.report import format_table
from genrec_jax.measures.transitions import choose_settings
from genrec_jax.predictions import check_writable, rank_to_file
from genrec_jax.progress import track
from genrec_jax.recommender import Recommender
from genrec_jax.run_folder import RunFolder
from genrec_jax.training.checkpoint import METRIC

log = logging.getLogger(__name__)

Split = Literal["validation", "test"]
MODEL = "GenRec"
ORACLE = "oracle"  # of the synthetic dataset: no recommender can expect more
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def watch(batches: Any, label: str, total: int) -> Any:
    return track(batches, label, total)


def split_examples(config: Config, sequences: UserSequences, split: Split) -> Examples:
    """The users of a split, or a sample of them as the config says."""
    evaluate = config.evaluate
    if split == "test":
        return sample_users(next_item_examples(sequences, TEST_HOLDOUT), evaluate.users)
    examples = next_item_examples(sequences, VALIDATION_HOLDOUT)
    return sample_users(examples, evaluate.validation_users)


def evaluate_split(
    recommender: Recommender,
    config: Config,
    sequences: UserSequences,
    split: Split,
    path: Path,
    watch: Watch = watch,
    heed: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The result of one split as results.json holds it; its ranked lists are left in `path`.

    `heed` is called between the stages, and may raise to stop there; `watch` between batches.
    """
    started = time.monotonic()
    examples = split_examples(config, sequences, split)
    plan = recommender.plan(examples, split)
    lists = join(rank_to_file(path, recommender, examples, plan, split, watch))
    seconds = time.monotonic() - started
    heed()
    top_k, exclude = config.evaluate.top_k, config.evaluate.exclude_history
    settings = choose_settings(sequences, exclude_history=exclude)
    numbers = recommender.catalogue.indexing.item_numbers
    references = reference_lists(sequences, examples, numbers, settings, top_k, exclude)
    if config.data.name == "synthetic":
        spec = synthetic_spec(config.data)
        references[ORACLE] = oracle_lists(spec, examples, top_k, exclude)
    heed()
    result = {
        "dataset": sequences.name,
        "indexing": config.indexing,
        "indexing_seed": config.indexing_seed,
        "split": split,
        "search": config.evaluate.search,
        "beams": config.evaluate.beams,
        "length_penalty": config.evaluate.length_penalty,
        "exclude_history": exclude,
        **findings(sequences, examples, lists.items, references),
        "kNN": str(settings),
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
    if config.evaluate.exact_users and config.evaluate.search != "exhaustive":
        result["against_exact"] = compare_with_exact(recommender, config, examples, lists, watch)
    return result


def compare_with_exact(
    recommender: Recommender,
    config: Config,
    examples: Examples,
    lists: RankedLists,
    watch: Watch,
) -> dict[str, float]:
    """What the search misses, on a sample of users that are ranked exhaustively too.

    Returns:
        `users` in the sample; `found`, the share of the exact lists' items that the search's lists
        hold; and the search's HR and NDCG less those of the exact lists on the same users.
    """
    rows = sample_rows(len(examples), config.evaluate.exact_users)
    sample = examples.take(rows)
    exact = recommender.rank(recommender.plan(sample, "exact"), "exact", watch, "exhaustive")
    ours = lists.items[rows]
    same = (ours[:, :, None] == exact.items[:, None, :]) & (exact.items >= 0)[:, None, :]
    by_search, by_exact = (metrics(one, sample.targets) for one in (ours, exact.items))
    return {
        "users": len(rows),
        "found": float(same.any(axis=1).sum() / max((exact.items >= 0).sum(), 1)),
        **{f"{name} lost": by_exact[name] - by_search[name] for name in by_exact},
    }


def versions() -> dict[str, str]:
    """Name → version, of Python, genrec_jax and what it computes with, and the device's kind."""
    return {
        "python": platform.python_version(),
        "genrec_jax": __version__,  # not of the metadata: on PYTHONPATH alone there is none
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "device": jax.devices()[0].device_kind,
    }


def result_table(result: dict[str, Any]) -> str:
    """What training and evaluation both print."""
    counts = result["counts"]
    title = f"{result['dataset']}, {result['split']}, {counts['users']} users"
    rows = {MODEL: result["metrics"]}
    if doubt := result.get("intervals"):  # not in the results of older versions
        rows["  ± half of the 95 % interval"] = {
            metric: (high - low) / 2 for metric, (low, high) in doubt.items()
        }
    if struck_out := result.get("without_history"):
        rows["  its history struck out"] = struck_out
    table = format_table(rows | result["references"], title)
    return "\n".join([table, *search_notes(result), *doubt_notes(result)])


def search_notes(result: dict[str, Any]) -> list[str]:
    """How the lists were made, and what the search missed."""
    notes = []
    if empty := result["counts"]["empty_places"]:
        notes.append(f"{empty} places of the lists name no item")
    line = f"indexing {result['indexing']}, {result['search']} search"
    if result["search"] != "exhaustive":
        line += f", {result['beams']} beams"
    if result.get("length_penalty"):
        line += f", length penalty {result['length_penalty']}"
    if result.get("exclude_history"):  # nor this, in those of older versions
        line += ", items of the history left out"
    notes.append(line)
    if exact := result.get("against_exact"):
        notes.append(
            f"of the exact lists of {exact['users']} users the search found "
            f"{100 * exact['found']:.2f} %; it lost HR@10 {exact['HR@10 lost']:+.5f}"
        )
    return notes


def doubt_notes(result: dict[str, Any]) -> list[str]:
    """The model against the strongest baseline, and what its numbers give away."""
    notes = []
    if result.get("differences"):
        strongest = max(
            (name for name in result["references"] if name != ORACLE),
            key=lambda name: result["references"][name][METRIC],
        )
        difference, low, high = result["differences"][strongest][METRIC]
        word = "above" if low > 0 else "below" if high < 0 else "level with"
        notes.append(
            f"{METRIC} is {word} that of the strongest baseline, '{strongest}': "
            f"{difference:+.5f}, 95 % interval {low:+.5f} to {high:+.5f}"
        )
    if result["indexing"] == "published" and result["dataset"] in ("beauty", "sports", "yelp"):
        notes.append(
            "The published ids leak the answer: 'largest number + 1, …' learns nothing "
            "(README, 'What a figure means here')."
        )
    return notes


def evaluate(config: Config, folder: RunFolder, split: Split, step: int | None) -> None:
    """Restore a run's checkpoint, rank a split and print the table that training printed.

    Args:
        config: the run's, with perhaps another `evaluate` part.
        folder: the run.
        split: `test` or `validation`.
        step: of the checkpoint; the best by validation if None.
    """
    # Beside the lists of the training run, which results.json speaks of.
    path = folder.predictions / f"evaluate_{split}.parquet"
    check_writable(path, "--workdir")
    sequences = load_sequences(config.data)
    folder.check_fingerprints(fingerprints.of_dataset(sequences))
    devices = Devices.to_rank(config.model_parallel)
    recommender = Recommender.load(folder.path, step, config.evaluate, devices)
    recommender.catalogue.check_same_dataset(sequences, load_names(config.data))
    result = evaluate_split(recommender, config, sequences, split, path)
    log.info("\n%s", result_table(result))
