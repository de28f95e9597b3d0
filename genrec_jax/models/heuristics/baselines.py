"""Baselines: untrained recommenders that put a model's metrics into perspective.

The training part of a user's sequence is all but the last two items. Every function returns
rankings, [n, top_k] item rows, best first, padded with -1. If a model is evaluated without the
items of the history, so are all baselines, and the rules that recommend the history are omitted.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from genrec_jax.data.sequences import Examples, UserSequences
from genrec_jax.models.heuristics.rankings import (
    by_popularity,
    fill_up,
    first_distinct,
    history_entries,
    top_items,
    training_counts,
)
from genrec_jax.models.heuristics.transitions import (
    TransitionSettings,
    chunks,
    seen_items,
    transition_rankings,
)

POPULARITY = "popularity"
NEWEST = "own history, newest first"
MOST_FREQUENT = "own history, most frequent first"
NEXT_NUMBER = "largest number + 1, …"
IN_TURN = "own history and number + 1 in turn"
TRANSITIONS = "item-transition kNN"


def baseline_rankings(
    sequences: UserSequences,
    examples: Examples,
    numbers: Int[np.ndarray, " N"] | None,
    settings: TransitionSettings,
    top_k: int,
    exclude_history: bool,
) -> dict[str, Int[np.ndarray, "n top_k"]]:
    """Rank the items by every baseline, which takes seconds on the paper's datasets.

    Args:
        sequences: the dataset, of which only the training parts are counted.
        examples: the histories to rank for.
        numbers: the number in each item's identifier; None for a model that reads no identifiers,
            which omits NEXT_NUMBER and IN_TURN.
        settings: the kNN's settings, from `choose_settings`.
        top_k: the length of a ranking.
        exclude_history: exclude the items of each history, and omit NEWEST, MOST_FREQUENT and
            IN_TURN, which recommend them.

    Returns:
        The rankings of every baseline by its name.
    """
    rankings = {POPULARITY: popularity_rankings(sequences, examples, top_k, exclude_history)}
    if exclude_history:
        settings = replace(settings, repeats=False)
    else:
        rankings[NEWEST] = own_history_rankings(examples, sequences.n_items, top_k, by="recency")
        rankings[MOST_FREQUENT] = own_history_rankings(
            examples, sequences.n_items, top_k, by="count"
        )
    if numbers is not None:
        rankings[NEXT_NUMBER] = next_number_rankings(numbers, examples, top_k)
        if not exclude_history:
            rankings[IN_TURN] = interleaved(rankings[NEWEST], rankings[NEXT_NUMBER])
    rankings[TRANSITIONS] = transition_rankings(sequences, examples, settings, top_k)
    return rankings


def popularity_rankings(
    sequences: UserSequences, examples: Examples, top_k: int, exclude_history: bool = False
) -> Int[np.ndarray, "n top_k"]:
    """Rank by the number of training interactions; ties go to the smaller item row.

    Args:
        sequences: the dataset, of which only the training parts are counted.
        examples: the histories to rank for.
        top_k: the length of a ranking.
        exclude_history: exclude the items of each history; otherwise all rankings are equal.
    """
    order = by_popularity(training_counts(sequences))
    if exclude_history:
        rankings = [
            fill_up(
                np.full((len(chunk), top_k), -1, np.int32),
                order,
                seen_items(chunk, sequences.n_items),
            )
            for chunk in chunks(examples)
        ]
        return np.concatenate(rankings)
    best = np.full(top_k, -1, dtype=np.int32)  # -1 if the catalogue has fewer items
    best[: len(order)] = order[:top_k]
    return np.broadcast_to(best, (len(examples), top_k))


def own_history_rankings(
    examples: Examples, n_items: int, top_k: int, by: str
) -> Int[np.ndarray, "n top_k"]:
    """Rank the items of each user's own history.

    Args:
        examples: the histories to rank for.
        n_items: the number of items in the catalogue.
        top_k: the length of a ranking.
        by: "recency" ranks the most recent items first, "count" the most frequent, with ties broken
            by recency.
    """
    rows, items, recency = history_entries(examples)  # the newest entry of a row first
    _, newest, counts = np.unique(
        rows * n_items + items, return_index=True, return_counts=True
    )  # the first entry of an (example, item) is its newest
    scores = 1.0 / (2.0 + recency[newest])
    if by == "count":
        scores = scores + counts  # the fraction is less than 1, so it only breaks ties
    shape = (len(examples), n_items)
    table = csr_array((scores, (rows[newest], items[newest])), shape=shape)
    return top_items(table, np.arange(n_items), top_k)


def next_number_rankings(
    numbers: Int[np.ndarray, " N"], examples: Examples, top_k: int
) -> Int[np.ndarray, "n top_k"]:
    """Rank the items whose numbers follow the largest number of the history: + 1, + 2, ….

    The metrics of this baseline measure how much the numbering leaks. A number without an item
    gives -1.

    Args:
        numbers: the number in each item's identifier.
        examples: the histories to rank for.
        top_k: the length of a ranking.
    """
    largest = largest_numbers(numbers, examples)
    following = largest[:, None].astype(np.int64) + np.arange(1, top_k + 1)
    order = np.argsort(numbers)  # numbers may be too sparse for a lookup table
    index = np.minimum(np.searchsorted(numbers, following, sorter=order), len(numbers) - 1)
    rows = order[index]
    return np.where(numbers[rows] == following, rows, -1).astype(np.int32)


def largest_numbers(numbers: Int[np.ndarray, " N"], examples: Examples) -> Int[np.ndarray, " n"]:
    """Return the largest item number of every history, 0 for an empty history."""
    rows, items, _ = history_entries(examples)
    largest = np.zeros(len(examples), dtype=numbers.dtype)
    np.maximum.at(largest, rows, numbers[items])
    return largest


def interleaved(
    first: Int[np.ndarray, "n k"], second: Int[np.ndarray, "n k"]
) -> Int[np.ndarray, "n k"]:
    """Interleave two rankings without duplicates, starting with the first item of `first`."""
    alternating = np.stack([first, second], axis=2).reshape(len(first), -1)
    return first_distinct(alternating, first.shape[1])
