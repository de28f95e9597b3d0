"""The settings of the item-transition kNN that rank the validation targets best.

The grid is small. T and counts come from all but the last three items of every user; the test
targets play no part in it.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from genrec_jax.data.sequences import (
    VALIDATION_HOLDOUT,
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

CHOSEN_BY = "NDCG@10"
VALIDATION_USERS = 10_000  # a seeded sample of at most so many chooses the settings
# At the test the newest item of a history, the validation item, is in no count. So that the choice
# is made as it will be used, one item more than the validation target is left out of T here.
CHOOSING_HOLDOUT = 3
WINDOWS = (5, 10)
FADING = ((1.0, 1.0), (0.6, 0.0), (0.8, 0.0))  # decay, power
POPULARITIES = (0.0, 0.125, 0.25)


def choose_settings(
    sequences: UserSequences, seed: int = 0, *, exclude_history: bool = False
) -> TransitionSettings:
    """The best of a small grid by validation NDCG@10; a sample of users on large datasets.

    Args:
        sequences: the dataset.
        seed: of the sample.
        exclude_history: consider only settings that leave out the items of the history; otherwise
            the validation decides about that too.
    """
    examples = next_item_examples(sequences, VALIDATION_HOLDOUT)
    if len(examples) > VALIDATION_USERS:
        rng = np.random.default_rng([seed, VALIDATION_USERS])
        examples = examples.take(
            np.sort(rng.choice(len(examples), VALIDATION_USERS, replace=False))
        )
    counts = training_counts(sequences, CHOOSING_HOLDOUT)
    reached: dict[TransitionSettings, float] = {}
    for window in WINDOWS:
        base = TransitionSettings(window=window)
        table = transition_counts(sequences, window, base.backward, CHOOSING_HOLDOUT)
        for decay, power in FADING:
            voting = replace(base, decay=decay, power=power)
            for chunk in chunks(examples):
                for settings, ranks in _ranks(table, chunk, counts, voting, exclude_history):
                    gain = metric_sums(ranks, 10)[CHOSEN_BY]
                    reached[settings] = reached.get(settings, 0.0) + gain
    return max(reached, key=lambda settings: reached[settings])


def _ranks(
    table: csr_array,
    examples: Examples,
    counts: Int[np.ndarray, " N"],
    voting: TransitionSettings,
    exclude_history: bool,
) -> Iterator[tuple[TransitionSettings, Float[np.ndarray, " n"]]]:
    """The target's rank for every popularity exponent, without repeats and with, if they may be.

    Lists are not needed for that: the rank is one more than the scores above the target's.
    """
    raw = votes(table, examples, voting)
    unseen = without(raw, seen_items(examples, len(counts)))
    allowed = (False,) if exclude_history else (False, True)
    for popularity, repeats in itertools.product(POPULARITIES, allowed):
        scores = discounted(raw if repeats else unseen, counts, popularity)
        targets = np.asarray(scores[np.arange(len(examples)), examples.targets])
        rows = np.repeat(np.arange(len(examples)), np.diff(scores.indptr))
        above = np.bincount(rows[scores.data > targets[rows]], minlength=len(examples))
        ranks = np.where(targets > 0, above + 1.0, np.inf)
        yield replace(voting, popularity=popularity, repeats=repeats), ranks
