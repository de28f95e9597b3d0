"""A checkpoint and a split → ranked lists → metrics, beside the baselines."""

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
    TEST_HOLDOUT,
    VALIDATION_HOLDOUT,
    Examples,
    UserSequences,
    next_item_examples,
    sample_rows,
    sample_users,
)
from genrec_jax.data.synthetic import oracle_lists
from genrec_jax.decoding.predictions import check_writable, rank_to_file
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.decoding.ranking import RankedLists, Watch, join
from genrec_jax.evaluation.metrics import metrics
from genrec_jax.evaluation.summary import findings
from genrec_jax.evaluation.transition_settings import choose_settings
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.models.heuristics.baselines import reference_lists
from genrec_jax.models.run_config import RunConfig, WithIdentifiers
from genrec_jax.runs import fingerprints
from genrec_jax.runs.dataset import load_names, load_sequences, synthetic_spec
from genrec_jax.runs.run_folder import RunFolder

log = logging.getLogger(__name__)

Split = Literal["validation", "test"]
ORACLE = "oracle"  # of the synthetic dataset: no recommender can expect more
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def split_examples(config: RunConfig, sequences: UserSequences, split: Split) -> Examples:
    """The users of a split, or a sample of them as the config says."""
    evaluate = config.evaluate
    if split == "test":
        return sample_users(next_item_examples(sequences, TEST_HOLDOUT), evaluate.users)
    examples = next_item_examples(sequences, VALIDATION_HOLDOUT)
    return sample_users(examples, evaluate.validation_users)


def evaluate_split(
    ranker: Ranker,
    config: RunConfig,
    sequences: UserSequences,
    split: Split,
    path: Path,
    watch: Watch = track,
    heed: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The result of one split as results.json holds it; its ranked lists are left in `path`.

    `heed` is called between the stages, and may raise to stop there; `watch` between batches.
    """
    started = time.monotonic()
    examples = split_examples(config, sequences, split)
    plan = ranker.plan(examples, split)
    lists = join(rank_to_file(path, ranker, examples, plan, split, watch))
    seconds = time.monotonic() - started
    heed()
    top_k, exclude = config.evaluate.top_k, config.evaluate.exclude_history
    settings = choose_settings(sequences, exclude_history=exclude)
    numbers = written_numbers(config, ranker.catalogue)
    references = reference_lists(sequences, examples, numbers, settings, top_k, exclude)
    if config.data.name == "synthetic":
        spec = synthetic_spec(config.data)
        references[ORACLE] = oracle_lists(spec, examples, top_k, exclude)
    heed()
    result = {
        "model": ranker.setup.family.title,
        "dataset": sequences.name,
        **described(config),
        "split": split,
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
    if config.evaluate.search_settings().exact_users:
        result["against_exact"] = compare_with_exact(ranker, config, examples, lists, watch)
    return result


def described(config: RunConfig) -> dict[str, Any]:
    """How items are written and ranked, as results.json says it: the keys that the family has."""
    keys = ("indexing", "indexing_seed"), ("search", "beams", "length_penalty", "exclude_history")
    values = config.to_dict()
    found = {key: values[key] for key in keys[0] if key in values}
    search = {"search": config.evaluate.search_settings().search} | values["evaluate"]
    return found | {key: search[key] for key in keys[1] if key in search}


def written_numbers(config: RunConfig, catalogue: Catalogue) -> Int[np.ndarray, " N"] | None:
    """The numbers that items are written with; None for a family that reads no identifiers."""
    return catalogue.indexing.item_numbers if isinstance(config, WithIdentifiers) else None


def compare_with_exact(
    ranker: Ranker,
    config: RunConfig,
    examples: Examples,
    lists: RankedLists,
    watch: Watch,
) -> dict[str, float]:
    """What the search misses, on a sample of users that are ranked exhaustively too.

    Returns:
        `users` in the sample; `found`, the share of the exact lists' items that the search's lists
        hold; and the search's HR and NDCG less those of the exact lists on the same users.
    """
    rows = sample_rows(len(examples), config.evaluate.search_settings().exact_users)
    sample = examples.take(rows)
    exact = ranker.rank(ranker.plan(sample, "exact"), "exact", watch, "exhaustive")
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


def evaluate(
    config: RunConfig, folder: RunFolder, split: Split, step: int | None
) -> dict[str, Any]:
    """Restore a run's checkpoint and rank a split; returns what `evaluate_split` does.

    Args:
        config: the run's, with perhaps another `evaluate` part.
        folder: the run.
        split: `test` or `validation`.
        step: of the checkpoint; the best by validation if None.
    """
    # Beside the lists of the training run, which results.json speaks of.
    path = folder.predictions / f"evaluate_{split}.parquet"
    check_writable(path, "--workdir")
    if folder.read_results() is None:
        log.warning("WARNING: %s is not finished: its metrics may still improve", folder.path)
    sequences = load_sequences(config.data)
    folder.check_fingerprints(fingerprints.of_dataset(sequences))
    devices = Devices.to_rank(config.table_parts())
    ranker = Ranker.load(folder.path, step, config, devices)
    ranker.catalogue.check_same_dataset(sequences, load_names(config.data))
    return evaluate_split(ranker, config, sequences, split, path)
