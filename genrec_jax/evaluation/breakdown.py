"""For whom a figure holds: by history length, by popularity of the target, repeats and new items;
and how wide the recommendations spread over the catalogue."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from genrec_jax.data.sequences import Examples
from genrec_jax.evaluation.intervals import intervals
from genrec_jax.evaluation.metrics import metric_sums
from genrec_jax.models.heuristics.rankings import by_popularity, first_different, history_entries

METRICS = ("HR@10", "NDCG@10")
AT = 10  # places of a list that spread counts
LENGTHS = (1, 5, 10, 20, 50)  # the first of each group
COUNTS = (0, 1, 5, 10, 20, 50, 100)
TOP_SHARE = 0.01


def breakdown(
    examples: Examples,
    ranks: Float[np.ndarray, " n"],
    counts: Int[np.ndarray, " N"],
    longest: int,
) -> dict[str, list[dict[str, Any]]]:
    """The figures of groups of users that together are all of them.

    Args:
        examples: histories and targets.
        ranks: the place of each target in its list.
        counts: training interactions of every item.
        longest: length of the lists, at least 10.

    Returns:
        kind of group → groups, each with `group`, `users`, and HR@10 and NDCG@10 with `intervals`.
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
    """Whether the target stands in the history."""
    rows, items, _ = history_entries(examples)
    return np.bincount(rows[items == examples.targets[rows]], minlength=len(examples)) > 0


def spread(lists: Int[np.ndarray, "n k"], counts: Int[np.ndarray, " N"]) -> dict[str, float]:
    """How the first ten places are spread over the catalogue.

    Returns:
        `coverage`, the share of the catalogue that stands in any list; `top_share`, the share of
        the places that go to the 1 % of the items with the most training interactions.
    """
    named = lists[:, :AT][lists[:, :AT] >= 0]
    top = by_popularity(counts)[: max(round(TOP_SHARE * len(counts)), 1)]
    return {
        "coverage": len(np.unique(named)) / len(counts),
        "top_share": float(np.isin(named, top).mean()) if len(named) else 0.0,
    }


def without_history(lists: Int[np.ndarray, "n k"], examples: Examples) -> Int[np.ndarray, "n k"]:
    """The lists with the items of the history struck out, what follows moved up."""
    rows, items, _ = history_entries(examples)
    n_items = int(max(lists.max(), items.max(initial=0))) + 1
    seen = np.sort(rows * n_items + items)
    keys = np.arange(len(lists))[:, None] * n_items + lists
    found = seen[np.minimum(np.searchsorted(seen, keys), len(seen) - 1)] == keys
    return first_different(np.where(found & (lists >= 0), -1, lists), lists.shape[1])


def _ranges(
    values: Int[np.ndarray, " n"], starts: tuple[int, ...]
) -> dict[str, Bool[np.ndarray, " n"]]:
    """Group name → members, `5–9` for 5 ≤ value < 10; the last group is open."""
    groups = {}
    for start, stop in zip(starts, (*starts[1:], None), strict=True):
        last = f"{start}+" if stop is None else f"{start}–{stop - 1}"
        name = f"{start}" if stop == start + 1 else last
        groups[name] = (values >= start) & (values < (np.inf if stop is None else stop))
    return groups


def _group(name: str, ranks: Float[np.ndarray, " m"], longest: int) -> dict[str, Any]:
    sums, doubt = metric_sums(ranks, longest), intervals(ranks, longest)
    figures = {metric: sums[metric] / len(ranks) for metric in METRICS}
    return {
        "group": name,
        "users": len(ranks),
        **figures,
        "intervals": {metric: doubt[metric] for metric in METRICS},
    }
