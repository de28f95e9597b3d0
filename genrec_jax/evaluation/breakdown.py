"""Metrics by groups of users, and the coverage of the catalogue.

The groups are by history length, by popularity of the target, and repeats against new items.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from genrec_jax.data.sequences import Examples
from genrec_jax.evaluation.intervals import intervals
from genrec_jax.evaluation.metrics import metric_sums
from genrec_jax.models.heuristics.rankings import by_popularity, first_different, history_entries

METRICS = ("HR@10", "NDCG@10")
AT = 10  # items of a ranking that `spread` counts
LENGTHS = (1, 5, 10, 20, 50)  # the smallest value of each group
COUNTS = (0, 1, 5, 10, 20, 50, 100)
TOP_SHARE = 0.01


def breakdown(
    examples: Examples,
    ranks: Float[np.ndarray, " n"],
    counts: Int[np.ndarray, " N"],
    longest: int,
) -> dict[str, list[dict[str, Any]]]:
    """Compute the metrics of groups of users; the groups of a kind partition the users.

    Args:
        examples: histories and targets.
        ranks: the rank of each target.
        counts: the training interactions of every item.
        longest: the length of the rankings, at least 10.

    Returns:
        For each kind of group its groups, with `group`, `users`, HR@10, NDCG@10 and `intervals`.
    """
    repeats = is_repeat(examples)
    kinds = {
        "items in the history": _ranges(examples.stops - examples.starts, LENGTHS),
        "training interactions of the target": _ranges(counts[examples.targets], COUNTS),
        "target": {"new to the user": ~repeats, "in the history": repeats},
    }
    return {
        kind: [
            _group(name, ranks[members], longest)
            for name, members in groups.items()
            if members.any()
        ]
        for kind, groups in kinds.items()
    }


def is_repeat(examples: Examples) -> Bool[np.ndarray, " n"]:
    """Return whether each target is already in its history."""
    rows, items, _ = history_entries(examples)
    return np.bincount(rows[items == examples.targets[rows]], minlength=len(examples)) > 0


def spread(rankings: Int[np.ndarray, "n k"], counts: Int[np.ndarray, " N"]) -> dict[str, float]:
    """Measure how the first ten items of all rankings are distributed over the catalogue.

    Args:
        rankings: item rows, best first, -1 for padding.
        counts: the training interactions of every item.

    Returns:
        `coverage`, the share of the catalogue that appears in any ranking; `top_share`, the share
        of recommendations that are among the 1 % of items with the most training interactions.
    """
    top_items = rankings[:, :AT][rankings[:, :AT] >= 0]
    popular = by_popularity(counts)[: max(round(TOP_SHARE * len(counts)), 1)]
    return {
        "coverage": len(np.unique(top_items)) / len(counts),
        "top_share": float(np.isin(top_items, popular).mean()) if len(top_items) else 0.0,
    }


def without_history(rankings: Int[np.ndarray, "n k"], examples: Examples) -> Int[np.ndarray, "n k"]:
    """Remove the items of each history from its ranking; later items move up."""
    rows, items, _ = history_entries(examples)
    n_items = int(max(rankings.max(), items.max(initial=0))) + 1
    seen = np.sort(rows * n_items + items)
    keys = np.arange(len(rankings))[:, None] * n_items + rankings
    is_seen = seen[np.minimum(np.searchsorted(seen, keys), len(seen) - 1)] == keys
    kept = np.where(is_seen & (rankings >= 0), -1, rankings)
    return first_different(kept, rankings.shape[1])


def _ranges(
    values: Int[np.ndarray, " n"], starts: tuple[int, ...]
) -> dict[str, Bool[np.ndarray, " n"]]:
    """Return the members of each group; `5–9` has 5 ≤ value < 10, the last group has no limit."""
    groups = {}
    for start, stop in zip(starts, (*starts[1:], None), strict=True):
        last = f"{start}+" if stop is None else f"{start}–{stop - 1}"
        name = f"{start}" if stop == start + 1 else last
        groups[name] = (values >= start) & (values < (np.inf if stop is None else stop))
    return groups


def _group(name: str, ranks: Float[np.ndarray, " m"], longest: int) -> dict[str, Any]:
    sums, all_intervals = metric_sums(ranks, longest), intervals(ranks, longest)
    return {
        "group": name,
        "users": len(ranks),
        **{metric: sums[metric] / len(ranks) for metric in METRICS},
        "intervals": {metric: all_intervals[metric] for metric in METRICS},
    }
