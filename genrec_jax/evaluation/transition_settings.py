"""Selection of the item-transition kNN's settings from a small grid by validation NDCG@10.

Transitions and counts exclude the last three items of every user, and test items are never used.
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
    undiscounted_scores,
    without,
)

TUNING_METRIC = "NDCG@10"
VALIDATION_USERS = 10_000  # maximum number of users in the validation sample
# At test time, the newest item of a history (the validation item) is not counted. Selection uses
# the same condition: the item before the validation item is not counted either.
TUNING_EXCLUDES = 3
WINDOWS = (5, 10)
DECAYS = ((1.0, 1.0), (0.6, 0.0), (0.8, 0.0))  # decay, power
POPULARITIES = (0.0, 0.125, 0.25)


def choose_settings(
    sequences: UserSequences, seed: int = 0, *, exclude_history: bool = False
) -> TransitionSettings:
    """Choose the kNN's settings with the best NDCG@10 on at most VALIDATION_USERS users.

    Args:
        sequences: the dataset.
        seed: the seed of the sample of validation users.
        exclude_history: consider only settings that exclude the items of the history; otherwise
            this is chosen on the validation users too.
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
        for decay, power in DECAYS:
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
    """Yield each candidate's settings and the ranks of the targets, without building rankings.

    A rank is one plus the number of scores above the target's. The candidates differ in the
    popularity exponent and, unless the history is excluded, in whether they recommend repeats.
    """
    raw = undiscounted_scores(table, examples, weighting)
    unseen = without(raw, seen_items(examples, len(counts)))
    repeat_options = (False,) if exclude_history else (False, True)
    for popularity, repeats in itertools.product(POPULARITIES, repeat_options):
        scores = discounted(raw if repeats else unseen, counts, popularity)
        targets = np.asarray(scores[np.arange(len(examples)), examples.targets])
        rows = np.repeat(np.arange(len(examples)), np.diff(scores.indptr))
        above = np.bincount(rows[scores.data > targets[rows]], minlength=len(examples))
        ranks = np.where(targets > 0, above + 1.0, np.inf)
        yield replace(weighting, popularity=popularity, repeats=repeats), ranks
