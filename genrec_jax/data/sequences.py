"""User sequences as ragged arrays, and the leave-one-out splits of the paper (section 6).

Users and items are *rows*: users 0 … U-1 in the order of the file, items 0 … N-1 in the order of
their published ids. `user_ids` and `item_ids` map rows to the published ids.

In a leave-one-out split, the last item of every sequence t_1 … t_n is the test item, the item
before it the validation item, and all earlier items are training items:

    t_1 … t_{n-2}     t_{n-1}             t_n
    training items    validation item     test item

Pretraining uses the training items. Every other split predicts a next item, the target, from all
items before it. The split is identified by `n_excluded`, the number of items after the user's last
target: 0 for test, 1 for validation, and 2 (or, as the paper's text also allows, 1) for finetuning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from genrec_jax.core.errors import InputError

# n_excluded of each split, the number of items after its targets.
TEST_EXCLUDES = 0
VALIDATION_EXCLUDES = 1
PRETRAINING_EXCLUDES = 2
LARGEST_ID = 2**31 - 1
MOST_DIGITS = 10  # digits of the largest id
SAMPLE_SEED = 0  # seed of user samples
SHORTEST_SEQUENCE = 3  # a training item, the validation item and the test item


@dataclass(frozen=True)
class UserSequences:
    """A dataset: the items of user u, oldest first, are items[offsets[u]:offsets[u + 1]]."""

    name: str
    items: Int[np.ndarray, " interactions"]  # item rows
    offsets: Int[np.ndarray, " users_plus_1"]
    user_ids: Int[np.ndarray, " users"]  # published id of each user row
    item_ids: Int[np.ndarray, " items"]  # published id of each item row

    @property
    def n_users(self) -> int:
        """U, the number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """N, the number of items."""
        return len(self.item_ids)

    @property
    def lengths(self) -> Int[np.ndarray, " users"]:
        """The number of items of each user."""
        return np.diff(self.offsets)

    def of(self, user: int) -> Int[np.ndarray, " length"]:
        """Return the item rows of a user, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]


@dataclass(frozen=True)
class Examples:
    """Predictions: the history items[starts:stops] of a user, and the item to predict.

    A target is -1 if it is unknown: pretraining masks an item of the history, and serving has no
    target.
    """

    items: Int[np.ndarray, " interactions"]  # item rows of all sequences, shared by all examples
    users: Int[np.ndarray, " n"]  # user rows
    starts: Int[np.ndarray, " n"]  # index in `items` of the first item of the history
    stops: Int[np.ndarray, " n"]  # index in `items` after the last item of the history
    targets: Int[np.ndarray, " n"]  # item rows

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: Int[np.ndarray, " m"]) -> "Examples":
        """Return the examples at some rows."""
        return Examples(
            self.items, self.users[rows], self.starts[rows], self.stops[rows], self.targets[rows]
        )

    def history(self, row: int | np.integer) -> Int[np.ndarray, " length"]:
        """Return the history of an example, oldest item first."""
        return self.items[self.starts[row] : self.stops[row]]


def pretraining_examples(sequences: UserSequences) -> Examples:
    """Return the training items of every user as histories, without targets (Figure 2)."""
    return Examples(
        items=sequences.items,
        users=np.arange(sequences.n_users),
        starts=sequences.offsets[:-1],
        stops=sequences.offsets[1:] - PRETRAINING_EXCLUDES,
        targets=np.full(sequences.n_users, -1),
    )


def next_item_examples(sequences: UserSequences, n_excluded: int) -> Examples:
    """Return one example per user: the last item before the excluded ones is the target.

    The history has all items before the target.

    Args:
        sequences: the dataset.
        n_excluded: the number of items after the target, such as TEST_EXCLUDES.
    """
    stops = sequences.offsets[1:] - n_excluded - 1
    return Examples(
        items=sequences.items,
        users=np.arange(sequences.n_users),
        starts=sequences.offsets[:-1],
        stops=stops,
        targets=sequences.items[stops],
    )


def prefix_examples(sequences: UserSequences, n_excluded: int) -> Examples:
    """Return an example per prefix: every item but the first and the excluded ones is a target.

    The history has all items before the target. The examples of a user are consecutive.

    Args:
        sequences: the dataset.
        n_excluded: the number of items after each user's last target.
    """
    counts = sequences.lengths - n_excluded - 1
    users = np.repeat(np.arange(sequences.n_users), counts)
    nth = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = sequences.offsets[users]
    stops = starts + 1 + nth
    return Examples(
        items=sequences.items,
        users=users,
        starts=starts,
        stops=stops,
        targets=sequences.items[stops],
    )


def without_last(sequences: UserSequences, n: int) -> UserSequences:
    """Shift all splits by n: remove the last n items of every user, but none of the catalogue.

    With n = 1, for example, the validation item of the dataset becomes the test item.

    Raises:
        InputError: a user would have fewer than SHORTEST_SEQUENCE items.
    """
    if n == 0:
        return sequences
    lengths = sequences.lengths - n
    if (short := np.flatnonzero(lengths < SHORTEST_SEQUENCE)).size:
        most = max(sequences.lengths.min() - SHORTEST_SEQUENCE, 0)
        raise InputError(
            f"config.data.drop_last: found {n}, which leaves fewer than {SHORTEST_SEQUENCE} items "
            f"to {len(short)} users such as {sequences.user_ids[short[0]]}, expected at most "
            f"{most} for {sequences.name}"
        )
    stops = np.repeat(sequences.offsets[1:] - n, sequences.lengths)
    return replace(
        sequences,
        name=f"{sequences.name} without the last {n}",
        items=sequences.items[np.arange(len(sequences.items)) < stops],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(sequences.offsets.dtype),
    )


def repeats(sequences: UserSequences, n_excluded: int) -> int:
    """Count the interactions with an item that the user has interacted with before.

    Args:
        sequences: the dataset.
        n_excluded: the number of items at the end of each sequence that are not counted.
    """
    users = np.repeat(np.arange(sequences.n_users), sequences.lengths)
    stops = np.repeat(sequences.offsets[1:] - n_excluded, sequences.lengths)
    counted = np.arange(len(users)) < stops
    pairs = users[counted] * sequences.n_items + sequences.items[counted]
    return len(pairs) - len(np.unique(pairs))


def whole_histories(sequences: UserSequences) -> Examples:
    """Return the whole sequence of every user as history, to recommend the items that follow it."""
    return Examples(
        items=sequences.items,
        users=np.arange(sequences.n_users),
        starts=sequences.offsets[:-1],
        stops=sequences.offsets[1:],
        targets=np.full(sequences.n_users, -1),
    )


def sample_users(examples: Examples, users: int) -> Examples:
    """Return a random sample of examples in their order.

    Args:
        examples: examples of different users.
        users: the size of the sample; 0, or more than there are: all examples.
    """
    return examples if users == 0 else examples.take(sample_rows(len(examples), users))


def sample_rows(n: int, users: int) -> Int[np.ndarray, " m"]:
    """Return the sorted rows of a sample of `users` out of n examples, without replacement.

    The sample does not depend on the run's seed, so that runs of all seeds are evaluated on the
    same users.
    """
    if users >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng([SAMPLE_SEED, users]).choice(n, users, replace=False))


def from_sequences(
    name: str, user_ids: Sequence[int], sequences: Sequence[Sequence[int]]
) -> UserSequences:
    """Build a dataset from published ids, where `sequences[u]` are the item ids of `user_ids[u]`.

    Raises:
        ValueError: a sequence is too short to be split.
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    if lengths.min() < SHORTEST_SEQUENCE:
        raise ValueError(
            f"found a sequence of {lengths.min()} items, expected at least {SHORTEST_SEQUENCE}"
        )
    flat = np.fromiter(
        (item for sequence in sequences for item in sequence), dtype=np.int64, count=lengths.sum()
    )
    item_ids, items = np.unique(flat, return_inverse=True)
    return UserSequences(
        name=name,
        items=items.astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        user_ids=np.asarray(user_ids, dtype=np.int64),
        item_ids=item_ids,
    )


def read_id_lines(path: Path, what: str) -> list[tuple[int, list[int]]]:
    """Read a text file of `user item item …` lines as (line number, integers).

    Args:
        path: the file.
        what: the kind of file, for error messages, such as "a sequence file".

    Raises:
        InputError: the file cannot be read or is empty, or a line is empty or contains something
            other than positive whole numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as {what}: {error}") from None
    parsed = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            raise InputError(
                f"{path}, line {number}: found an empty line, expected 'user item item …'"
            )
        for word in words:
            is_number = word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS
            if not (is_number and 0 < int(word) <= LARGEST_ID):
                raise InputError(
                    f"{path}, line {number}: found {word[:40]!r}, expected a whole number from 1 "
                    f"to {LARGEST_ID}"
                )
        parsed.append((number, [int(word) for word in words]))
    if not parsed:
        raise InputError(f"{path}: found an empty file, expected lines of 'user item item …'")
    return parsed


def read_sequence_file(path: Path, name: str) -> UserSequences:
    """Read a file in S3-Rec's format: a line `user item item …` per user, oldest item first.

    Raises:
        InputError: the file cannot be read, a line contains something other than positive whole
            numbers, or a user has fewer than three items or occurs twice.
    """
    return _read_in_bulk(path, name) or _read_line_by_line(path, name)


def _read_in_bulk(path: Path, name: str) -> UserSequences | None:
    """Read a file in one step; return None if it has any fault."""
    try:
        text = path.read_bytes().replace(b"\r\n", b"\n")
    except OSError:
        return None
    if not text or text.translate(None, b"0123456789 \t\n"):
        return None
    characters = np.frombuffer(text, dtype=np.uint8)
    is_digit = np.concatenate([[False], characters >= ord("0"), [False]])
    edges = np.flatnonzero(is_digit[1:] != is_digit[:-1])  # alternating starts and ends of words
    starts, ends = edges[::2], edges[1::2]
    line_ends = np.flatnonzero(characters == ord("\n"))
    if characters[-1] != ord("\n"):
        line_ends = np.append(line_ends, len(characters))
    last = np.searchsorted(starts, line_ends)
    lengths = np.diff(last, prepend=0) - 1  # items of each line
    if lengths.min() < SHORTEST_SEQUENCE or (ends - starts).max() > MOST_DIGITS:
        return None
    numbers = np.fromstring(text, dtype=np.int64, sep=" ")
    is_user = np.zeros(len(numbers), dtype=bool)
    is_user[last - lengths - 1] = True
    users, ids = numbers[is_user], numbers[~is_user]
    out_of_range = numbers.min() < 1 or numbers.max() > LARGEST_ID
    if out_of_range or len(np.unique(users)) < len(users):
        return None
    item_ids, items = _numbered(ids)
    return UserSequences(name, items, np.concatenate([[0], np.cumsum(lengths)]), users, item_ids)


def _numbered(
    ids: Int[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " n"]]:
    """Return the sorted distinct ids, and the index of each id; avoids sorting if ids are dense."""
    largest = int(ids.max())
    if largest > 4 * len(ids):
        item_ids, items = np.unique(ids, return_inverse=True)
        return item_ids, items.astype(np.int32)
    occurs = np.zeros(largest + 1, dtype=bool)
    occurs[ids] = True
    return np.flatnonzero(occurs), (np.cumsum(occurs, dtype=np.int32) - 1)[ids]


def _read_line_by_line(path: Path, name: str) -> UserSequences:
    """Read a file line by line, which is slow, to report the line of a fault."""
    line_of_user: dict[int, int] = {}
    sequences = []
    for number, ids in read_id_lines(path, "a sequence file"):
        if len(ids) < 1 + SHORTEST_SEQUENCE:
            raise InputError(
                f"{path}, line {number}: found user {ids[0]} with {len(ids) - 1} items, expected "
                f"at least {SHORTEST_SEQUENCE} (one each for training, validation and test)"
            )
        user, *items = ids
        if user in line_of_user:
            raise InputError(
                f"{path}, line {number}: found user {user} again, already on line "
                f"{line_of_user[user]}, expected one line per user"
            )
        line_of_user[user] = number
        sequences.append(items)
    return from_sequences(name, list(line_of_user), sequences)
