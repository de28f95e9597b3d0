"""Metrics of groups of users, and the distribution of recommendations over the catalogue.

Users are grouped by history length, by popularity of the target, and by whether the target is in
the history.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from genrec_jax.data.sequences import Examples
from genrec_jax.evaluation.intervals import intervals
from genrec_jax.evaluation.metrics import metric_sums
from genrec_jax.models.heuristics.rankings import by_popularity, first_distinct, history_entries

METRICS = ("HR@10", "NDCG@10")
AT = 10  # number of items of each ranking that `spread` counts
LENGTHS = (1, 5, 10, 20, 50)  # the smallest history length of each group
COUNTS = (0, 1, 5, 10, 20, 50, 100)  # the smallest training count of each group
TOP_SHARE = 0.01  # share of the catalogue that counts as popular


def breakdown(
    examples: Examples,
    ranks: Float[np.ndarray, " n"],
    counts: Int[np.ndarray, " N"],
    longest: int,
) -> dict[str, list[dict[str, Any]]]:
    """Compute the metrics of groups of users; the groups of each kind partition the users.

    Args:
        examples: the histories and targets.
        ranks: the rank of each target, infinity if it is missing.
        counts: the number of training interactions of every item.
        longest: the length of the rankings, at least 10.

    Returns:
        For each kind of group, the list of its nonempty groups with their name (`group`), number of
        `users`, HR@10, NDCG@10 and the `intervals` of both.
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
    """Return whether each target already occurs in its history."""
    rows, items, _ = history_entries(examples)
    return np.bincount(rows[items == examples.targets[rows]], minlength=len(examples)) > 0


def spread(rankings: Int[np.ndarray, "n k"], counts: Int[np.ndarray, " N"]) -> dict[str, float]:
    """Measure how the first ten items of all rankings are distributed over the catalogue.

    Args:
        rankings: item rows, best first, padded with -1.
        counts: the number of training interactions of every item.

    Returns:
        `coverage`, the share of the catalogue that occurs in any ranking; `top_share`, the share of
        recommendations that are among the 1 % of items with the most training interactions.
    """
    recommended = rankings[:, :AT][rankings[:, :AT] >= 0]
    popular = by_popularity(counts)[: max(round(TOP_SHARE * len(counts)), 1)]
    return {
        "coverage": len(np.unique(recommended)) / len(counts),
        "top_share": float(np.isin(recommended, popular).mean()) if len(recommended) else 0.0,
    }


def without_history(rankings: Int[np.ndarray, "n k"], examples: Examples) -> Int[np.ndarray, "n k"]:
    """Return the rankings without the items of each history; the items after them move up."""
    rows, items, _ = history_entries(examples)
    n_items = int(max(rankings.max(), items.max(initial=0))) + 1
    seen = np.sort(rows * n_items + items)
    keys = np.arange(len(rankings))[:, None] * n_items + rankings
    is_seen = seen[np.minimum(np.searchsorted(seen, keys), len(seen) - 1)] == keys
    kept = np.where(is_seen & (rankings >= 0), -1, rankings)
    return first_distinct(kept, rankings.shape[1])


def _ranges(
    values: Int[np.ndarray, " n"], starts: tuple[int, ...]
) -> dict[str, Bool[np.ndarray, " n"]]:
    """Return the members of each group by its name; `5–9` is 5 ≤ value < 10, the last is open."""
    groups = {}
    for start, stop in zip(starts, (*starts[1:], None), strict=True):
        interval = f"{start}+" if stop is None else f"{start}–{stop - 1}"
        name = f"{start}" if stop == start + 1 else interval
        groups[name] = (values >= start) & (values < (np.inf if stop is None else stop))
    return groups


def _group(name: str, ranks: Float[np.ndarray, " m"], longest: int) -> dict[str, Any]:
    """Return the metrics of one group as a JSON object."""
    sums, all_intervals = metric_sums(ranks, longest), intervals(ranks, longest)
    return {
        "group": name,
        "users": len(ranks),
        **{metric: sums[metric] / len(ranks) for metric in METRICS},
        "intervals": {metric: all_intervals[metric] for metric in METRICS},
    }
