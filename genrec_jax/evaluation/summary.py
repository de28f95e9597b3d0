"""All that is said of the ranked lists of a split, ready for results.json."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from genrec_jax.data.sequences import Examples, UserSequences
from genrec_jax.evaluation.breakdown import breakdown, is_repeat, spread, without_history
from genrec_jax.evaluation.intervals import difference_intervals, intervals
from genrec_jax.evaluation.metrics import metrics, ranks_of_targets
from genrec_jax.models.heuristics.rankings import training_counts


def findings(
    sequences: UserSequences,
    examples: Examples,
    lists: Int[np.ndarray, "n k"],
    references: Mapping[str, Int[np.ndarray, "n k"]],
) -> dict[str, Any]:
    """Figures with what they are worth.

    Args:
        sequences: the dataset, of which the training part is counted.
        examples: the users of the split.
        lists: the model's.
        references: name → lists of a line to beat.

    Returns:
        `metrics` and their `intervals`; `references`, the same metrics for each; `differences`,
        model less reference as [difference, low, high], paired by user; `breakdown`; `spread` of
        the model and of the references; and where targets repeat items of the history,
        `without_history`: the metrics of the same lists with those items struck out.
    """
    longest = lists.shape[1]
    counts = training_counts(sequences)
    ranks = ranks_of_targets(lists, examples.targets)
    figures = metrics(lists, examples.targets)
    of_references = {name: metrics(ranked, examples.targets) for name, ranked in references.items()}
    differences = {}
    for name, ranked in references.items():
        others = ranks_of_targets(ranked, examples.targets)
        differences[name] = {
            metric: [figures[metric] - of_references[name][metric], *interval]
            for metric, interval in difference_intervals(ranks, others, longest).items()
        }
    found = {
        "metrics": figures,
        "intervals": intervals(ranks, longest),
        "references": of_references,
        "differences": differences,
        "breakdown": breakdown(examples, ranks, counts, longest),
        "spread": {
            "model": spread(lists, counts),
            **{name: spread(ranked, counts) for name, ranked in references.items()},
        },
    }
    if is_repeat(examples).any():
        struck_out = without_history(lists, examples)
        found["without_history"] = metrics(struck_out, examples.targets)
    return found
