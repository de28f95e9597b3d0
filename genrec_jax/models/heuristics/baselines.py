"""Lines to beat: recommenders that learn nothing. A model's figure says something beside them.

The training part of a user is all but the last two items. Every function returns ranked lists,
[n, top_k] item rows, -1 for an empty place. Where a model is ranked without the items of the
history, so are they all; the rules that recommend the history itself are left out.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from genrec_jax.data.sequences import Examples, UserSequences
from genrec_jax.models.heuristics.rankings import (
    by_popularity,
    fill_up,
    first_different,
    history_entries,
    top_items,
    training_counts,
)
from genrec_jax.models.heuristics.transitions import (
    TransitionSettings,
    chunks,
    seen_items,
    transition_lists,
)

POPULARITY = "popularity"
NEWEST = "own history, newest first"
MOST_FREQUENT = "own history, most frequent first"
NEXT_NUMBER = "largest number + 1, …"
IN_TURN = "own history and number + 1 in turn"
TRANSITIONS = "item-transition kNN"


def reference_lists(
    sequences: UserSequences,
    examples: Examples,
    numbers: Int[np.ndarray, " N"] | None,
    settings: TransitionSettings,
    top_k: int,
    exclude_history: bool,
) -> dict[str, Int[np.ndarray, "n top_k"]]:
    """All of them by name; seconds on the datasets of the paper.

    Args:
        sequences: what is counted; only the training part is.
        examples: the histories to rank for.
        numbers: the number that each item is written with; None for a model that reads none, whose
            results say nothing of NEXT_NUMBER and IN_TURN.
        settings: of the item-transition kNN; `choose_settings` finds them.
        top_k: length of a list.
        exclude_history: leave out the items of each history; NEWEST, MOST_FREQUENT and IN_TURN,
            which recommend them, are then not among the lists.
    """
    lists = {POPULARITY: popularity_lists(sequences, examples, top_k, exclude_history)}
    if exclude_history:
        settings = replace(settings, repeats=False)
    else:
        lists[NEWEST] = own_history_lists(examples, sequences.n_items, top_k, by="recency")
        lists[MOST_FREQUENT] = own_history_lists(examples, sequences.n_items, top_k, by="count")
    if numbers is not None:
        lists[NEXT_NUMBER] = next_number_lists(numbers, examples, top_k)
        if not exclude_history:
            lists[IN_TURN] = in_turn(lists[NEWEST], lists[NEXT_NUMBER])
    lists[TRANSITIONS] = transition_lists(sequences, examples, settings, top_k)
    return lists


def popularity_lists(
    sequences: UserSequences, examples: Examples, top_k: int, exclude_history: bool = False
) -> Int[np.ndarray, "n top_k"]:
    """The items with the most interactions in the training part, the same list for everybody.

    Ties go to the smaller row. The last two items of every user are not counted. With
    `exclude_history` each user's list is the most popular items that their history lacks.
    """
    order = by_popularity(training_counts(sequences))
    if exclude_history:
        lists = [
            fill_up(
                np.full((len(chunk), top_k), -1, np.int32),
                order,
                seen_items(chunk, sequences.n_items),
            )
            for chunk in chunks(examples)
        ]
        return np.concatenate(lists)
    best = np.full(top_k, -1, dtype=np.int32)  # -1 where the catalogue has fewer items
    best[: len(order)] = order[:top_k]
    return np.broadcast_to(best, (len(examples), top_k))


def own_history_lists(
    examples: Examples, n_items: int, top_k: int, by: str
) -> Int[np.ndarray, "n top_k"]:
    """The items of the history itself.

    Args:
        examples: the histories.
        n_items: of the catalogue.
        top_k: length of a list.
        by: `recency`, the newest first; or `count`, the most frequent first, then the newest.
    """
    rows, items, recency = history_entries(examples)  # the newest of a row first
    _, newest, counts = np.unique(
        rows * n_items + items, return_index=True, return_counts=True
    )  # the first entry of an (example, item) is its newest
    scores = 1.0 / (2.0 + recency[newest])
    if by == "count":
        scores = scores + counts  # the fraction is below 1 and breaks ties only
    shape = (len(examples), n_items)
    table = csr_array((scores, (rows[newest], items[newest])), shape=shape)
    return top_items(table, np.arange(n_items), top_k)


def next_number_lists(
    numbers: Int[np.ndarray, " N"], examples: Examples, top_k: int
) -> Int[np.ndarray, "n top_k"]:
    """The items whose numbers follow the largest number of the history: + 1, + 2, ….

    What this reaches is what the numbering gives away. Numbers that no item has leave -1.

    Args:
        numbers: the number that each item is written with.
        examples: the histories.
        top_k: length of a list.
    """
    largest = largest_numbers(numbers, examples)
    asked = largest[:, None].astype(np.int64) + np.arange(1, top_k + 1)
    order = np.argsort(numbers)  # numbers may be far apart: no table of all that could be
    place = np.minimum(np.searchsorted(numbers, asked, sorter=order), len(numbers) - 1)
    rows = order[place]
    return np.where(numbers[rows] == asked, rows, -1).astype(np.int32)


def largest_numbers(numbers: Int[np.ndarray, " N"], examples: Examples) -> Int[np.ndarray, " n"]:
    """The largest number of every history; 0 where it is empty."""
    rows, items, _ = history_entries(examples)
    largest = np.zeros(len(examples), dtype=numbers.dtype)
    np.maximum.at(largest, rows, numbers[items])
    return largest


def in_turn(one: Int[np.ndarray, "n k"], other: Int[np.ndarray, "n k"]) -> Int[np.ndarray, "n k"]:
    """The first of one, the first of the other, the second of one, …, each item once."""
    return first_different(np.stack([one, other], axis=2).reshape(len(one), -1), one.shape[1])
