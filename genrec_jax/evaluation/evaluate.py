"""Evaluation of a checkpoint on a split: rankings, metrics and baselines."""

import importlib.metadata
import logging
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Int

from genrec_jax import __version__
from genrec_jax.core.devices import Devices
from genrec_jax.core.progress import track
from genrec_jax.data.sequences import (
    TEST_EXCLUDES,
    VALIDATION_EXCLUDES,
    Examples,
    UserSequences,
    next_item_examples,
    sample_rows,
    sample_users,
)
from genrec_jax.data.synthetic import oracle_rankings
from genrec_jax.decoding.predictions import check_writable, rank_to_file
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.decoding.ranking import Rankings, Watch, join
from genrec_jax.evaluation.metrics import metrics
from genrec_jax.evaluation.summary import evaluation_summary
from genrec_jax.evaluation.transition_settings import choose_settings
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.heuristics.baselines import baseline_rankings
from genrec_jax.models.run_config import RunConfig, WithIdentifiers
from genrec_jax.runs import fingerprints
from genrec_jax.runs.dataset import load_log_metadata, load_sequences, synthetic_spec
from genrec_jax.runs.run_folder import RunFolder

log = logging.getLogger(__name__)

Split = Literal["validation", "test"]
ORACLE = "oracle"  # baseline name of the best possible recommender of the synthetic dataset
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def split_examples(config: RunConfig, sequences: UserSequences, split: Split) -> Examples:
    """Return the examples of a split, restricted to the config's sample of users if it has one."""
    evaluate = config.evaluate
    if split == "test":
        return sample_users(next_item_examples(sequences, TEST_EXCLUDES), evaluate.users)
    examples = next_item_examples(sequences, VALIDATION_EXCLUDES)
    return sample_users(examples, evaluate.validation_users)


def evaluate_split(
    ranker: Ranker,
    config: RunConfig,
    sequences: UserSequences,
    split: Split,
    path: Path,
    watch: Watch = track,
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Rank a split, write the rankings to `path` and evaluate them.

    Args:
        ranker: the ranker of the model.
        config: the config of the run.
        sequences: the dataset.
        split: the split to rank.
        path: the Parquet file for the rankings.
        watch: a wrapper of the iteration over batches that shows progress.
        check_stop: a function called between the stages, which may raise to interrupt.

    Returns:
        The content of results.json for this split.
    """
    started = time.monotonic()
    examples = split_examples(config, sequences, split)
    plan = ranker.plan(examples, split)
    rankings = join(rank_to_file(path, ranker, examples, plan, split, watch))
    seconds = time.monotonic() - started
    check_stop()
    top_k, exclude = config.evaluate.top_k, config.evaluate.exclude_history
    settings = choose_settings(sequences, exclude_history=exclude)
    numbers = identifier_numbers(config, ranker.catalogue)
    baselines = baseline_rankings(sequences, examples, numbers, settings, top_k, exclude)
    if config.data.name == "synthetic":
        spec = synthetic_spec(config.data)
        baselines[ORACLE] = oracle_rankings(spec, examples, top_k, exclude)
    check_stop()
    result = {
        "model": ranker.setup.family.title,
        "dataset": sequences.name,
        **search_description(config),
        "split": split,
        **evaluation_summary(sequences, examples, rankings.items, baselines),
        "kNN": str(settings),
        "counts": {
            "users": len(examples),
            "users_of_dataset": sequences.n_users,
            "items": sequences.n_items,
            "interactions": len(sequences.items),
            "empty_places": int((rankings.items < 0).sum()),
        },
        "seconds": {"ranking": round(seconds, 2)},
        "versions": versions(),
    }
    if config.evaluate.search_settings().exact_users:
        result["against_exact"] = compare_with_exact(ranker, config, examples, rankings, watch)
    return result


def search_description(config: RunConfig) -> dict[str, Any]:
    """Return the indexing and search settings of the model family, as results.json stores them."""
    values = config.to_dict()
    search = {"search": config.evaluate.search_settings().search} | values["evaluate"]
    keys = ("indexing", "indexing_seed"), ("search", "beams", "length_penalty", "exclude_history")
    indexing = {key: values[key] for key in keys[0] if key in values}
    return indexing | {key: search[key] for key in keys[1] if key in search}


def identifier_numbers(config: RunConfig, catalogue: Catalogue) -> Int[np.ndarray, " N"] | None:
    """Return the numbers in the items' identifiers, None if the family reads no identifiers."""
    return catalogue.indexing.item_numbers if isinstance(config, WithIdentifiers) else None


def compare_with_exact(
    ranker: Ranker,
    config: RunConfig,
    examples: Examples,
    rankings: Rankings,
    watch: Watch,
) -> dict[str, float]:
    """Compare the rankings with those of exhaustive search on a sample of users.

    Args:
        ranker: the ranker of the model.
        config: the config of the run, which gives the size of the sample.
        examples: the examples of the split.
        rankings: the rankings of all examples by the configured search.
        watch: a wrapper of the iteration over batches that shows progress.

    Returns:
        `users`, the size of the sample; `found`, the share of the items in the exact rankings that
        the search found; and for each metric `METRIC lost`, exhaustive search minus the search.
    """
    rows = sample_rows(len(examples), config.evaluate.search_settings().exact_users)
    sample = examples.take(rows)
    exact = ranker.rank(ranker.plan(sample, "exact"), "exact", watch, "exhaustive")
    items = rankings.items[rows]
    same = (items[:, :, None] == exact.items[:, None, :]) & (exact.items >= 0)[:, None, :]
    by_search, by_exact = (metrics(ranked, sample.targets) for ranked in (items, exact.items))
    return {
        "users": len(rows),
        "found": float(same.any(axis=1).sum() / max((exact.items >= 0).sum(), 1)),
        **{f"{name} lost": by_exact[name] - by_search[name] for name in by_exact},
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, genrec_jax and the numerical packages, and the device kind."""
    return {
        "python": platform.python_version(),
        "genrec_jax": __version__,  # package metadata is missing if only PYTHONPATH is set
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "device": jax.devices()[0].device_kind,
    }


def evaluate(
    config: RunConfig, folder: RunFolder, split: Split, step: int | None
) -> dict[str, Any]:
    """Restore a run's checkpoint, rank a split and evaluate the rankings.

    Args:
        config: the config of the run, possibly with other values of `evaluate`.
        folder: the directory of the run.
        split: `test` or `validation`.
        step: the step of the checkpoint; None: the best checkpoint by validation.

    Returns:
        The result of `evaluate_split`.

    Raises:
        InputError: the dataset differs from the run's, or the output file cannot be written.
    """
    # results.json describes the rankings of the training run, so they are not overwritten.
    path = folder.predictions / f"evaluate_{split}.parquet"
    check_writable(path, "--workdir")
    if folder.read_results() is None:
        log.warning("WARNING: %s is not finished: its metrics may still improve", folder.path)
    sequences = load_sequences(config.data)
    folder.check_fingerprints(fingerprints.of_dataset(sequences))
    devices = Devices.for_ranking(config.table_parts())
    ranker = Ranker.load(folder.path, step, config, devices)
    ranker.catalogue.check_same_dataset(sequences, load_log_metadata(config.data))
    return evaluate_split(ranker, config, sequences, split, path)
