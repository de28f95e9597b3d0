"""The settings of the item-transition kNN, chosen from a small grid by validation NDCG@10.

Transitions and counts come from all but the last three items of every user; test items are never
used.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from genrec_jax.data.sequences import (
    VALIDATION_EXCLUDES,
    Examples,
    UserSequences,
    next_item_examples,
)
from genrec_jax.evaluation.metrics import metric_sums
from genrec_jax.models.heuristics.rankings import training_counts
from genrec_jax.models.heuristics.transitions import (
    TransitionSettings,
    chunks,
    discounted,
    seen_items,
    transition_counts,
    votes,
    without,
)

TUNING_METRIC = "NDCG@10"
VALIDATION_USERS = 10_000  # the largest sample of users that chooses the settings
# At test time the newest item of a history, the validation item, is in no count. To choose under
# the same condition, one item more than the validation item is excluded from the counts here.
TUNING_EXCLUDES = 3
WINDOWS = (5, 10)
FADING = ((1.0, 1.0), (0.6, 0.0), (0.8, 0.0))  # decay, power
POPULARITIES = (0.0, 0.125, 0.25)


def choose_settings(
    sequences: UserSequences, seed: int = 0, *, exclude_history: bool = False
) -> TransitionSettings:
    """Choose the settings with the best validation NDCG@10, on a sample of users if there are many.

    Args:
        sequences: the dataset.
        seed: the seed of the sample.
        exclude_history: consider only settings that exclude the items of the history; otherwise
            validation chooses that too.
    """
    examples = next_item_examples(sequences, VALIDATION_EXCLUDES)
    if len(examples) > VALIDATION_USERS:
        rng = np.random.default_rng([seed, VALIDATION_USERS])
        examples = examples.take(
            np.sort(rng.choice(len(examples), VALIDATION_USERS, replace=False))
        )
    counts = training_counts(sequences, TUNING_EXCLUDES)
    scores: dict[TransitionSettings, float] = {}
    for window in WINDOWS:
        base = TransitionSettings(window=window)
        table = transition_counts(sequences, window, base.backward, TUNING_EXCLUDES)
        for decay, power in FADING:
            weighting = replace(base, decay=decay, power=power)
            for chunk in chunks(examples):
                for settings, ranks in _ranks(table, chunk, counts, weighting, exclude_history):
                    gain = metric_sums(ranks, 10)[TUNING_METRIC]
                    scores[settings] = scores.get(settings, 0.0) + gain
    return max(scores, key=lambda settings: scores[settings])


def _ranks(
    table: csr_array,
    examples: Examples,
    counts: Int[np.ndarray, " N"],
    weighting: TransitionSettings,
    exclude_history: bool,
) -> Iterator[tuple[TransitionSettings, Float[np.ndarray, " n"]]]:
    """Yield the targets' ranks for every popularity exponent, with and without repeats if allowed.

    No rankings are built: a rank is one plus the number of scores above the target's.
    """
    raw = votes(table, examples, weighting)
    unseen = without(raw, seen_items(examples, len(counts)))
    allowed = (False,) if exclude_history else (False, True)
    for popularity, repeats in itertools.product(POPULARITIES, allowed):
        scores = discounted(raw if repeats else unseen, counts, popularity)
        targets = np.asarray(scores[np.arange(len(examples)), examples.targets])
        rows = np.repeat(np.arange(len(examples)), np.diff(scores.indptr))
        above = np.bincount(rows[scores.data > targets[rows]], minlength=len(examples))
        ranks = np.where(targets > 0, above + 1.0, np.inf)
        yield replace(weighting, popularity=popularity, repeats=repeats), ranks
