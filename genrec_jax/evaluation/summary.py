"""The evaluation summary of a split's rankings in the format of results.json."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from genrec_jax.data.sequences import Examples, UserSequences
from genrec_jax.evaluation.breakdown import breakdown, is_repeat, spread, without_history
from genrec_jax.evaluation.intervals import difference_intervals, intervals
from genrec_jax.evaluation.metrics import metrics, ranks_of_targets
from genrec_jax.models.heuristics.rankings import training_counts


def evaluation_summary(
    sequences: UserSequences,
    examples: Examples,
    rankings: Int[np.ndarray, "n k"],
    baselines: Mapping[str, Int[np.ndarray, "n k"]],
) -> dict[str, Any]:
    """Compute the metrics of a model and the baselines with confidence intervals.

    Args:
        sequences: the dataset, whose training interactions are counted.
        examples: the histories and targets of the split.
        rankings: the model's rankings.
        baselines: the rankings of each baseline by its name, as long as the model's.

    Returns:
        JSON values: the model's `metrics` and their `intervals`; `references`, the metrics of each
        baseline; `differences`, model minus baseline, paired by user, as [difference, low, high];
        `breakdown` of the metrics by groups of users; `spread` of the model's and the baselines'
        recommendations over the catalogue; and, if any target is in its history,
        `without_history`, the metrics of the model's rankings without the items of the history.
    """
    longest = rankings.shape[1]
    counts = training_counts(sequences)
    ranks = ranks_of_targets(rankings, examples.targets)
    of_model = metrics(rankings, examples.targets)
    of_baselines = {name: metrics(ranked, examples.targets) for name, ranked in baselines.items()}
    differences = {}
    for name, ranked in baselines.items():
        baseline_ranks = ranks_of_targets(ranked, examples.targets)
        differences[name] = {
            metric: [of_model[metric] - of_baselines[name][metric], *interval]
            for metric, interval in difference_intervals(ranks, baseline_ranks, longest).items()
        }
    summary = {
        "metrics": of_model,
        "intervals": intervals(ranks, longest),
        "references": of_baselines,
        "differences": differences,
        "breakdown": breakdown(examples, ranks, counts, longest),
        "spread": {
            "model": spread(rankings, counts),
            **{name: spread(ranked, counts) for name, ranked in baselines.items()},
        },
    }
    if is_repeat(examples).any():
        new_items = without_history(rankings, examples)
        summary["without_history"] = metrics(new_items, examples.targets)
    return summary
