"""User sequences as ragged arrays, and the leave-one-out splits of the paper (section 6).

Users and items are *rows*: users 0 … U-1 in the order of the file, items 0 … N-1 in the order of
their published ids. The ids that the file writes are kept beside them (`user_ids`, `item_ids`).

Of a sequence t_1 … t_n the paper holds out two items:

    t_1 … t_{n-3}   t_{n-2}          t_{n-1}             t_n
    training part …………………          validation target   test target

Pretraining sees the training part. Every other split predicts one next item, and is named by its
*holdout*, the number of items at the end that are hidden: 0 for test, 1 for validation, and 2 (or,
as the paper's text also allows, 1) for finetuning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from genrec_jax.core.errors import InputError

TEST_HOLDOUT = 0
VALIDATION_HOLDOUT = 1
PRETRAINING_HOLDOUT = 2
LARGEST_ID = 2**31 - 1
MOST_DIGITS = 10  # of an id
SAMPLE_SEED = 0  # of the users of a split
SHORTEST_SEQUENCE = 3  # one item of training, one of validation, one of test


@dataclass(frozen=True)
class UserSequences:
    """What every user did, oldest first; user u's items are items[offsets[u]:offsets[u + 1]]."""

    name: str
    items: Int[np.ndarray, " interactions"]
    offsets: Int[np.ndarray, " users_plus_1"]
    user_ids: Int[np.ndarray, " users"]
    item_ids: Int[np.ndarray, " items"]

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def lengths(self) -> Int[np.ndarray, " users"]:
        return np.diff(self.offsets)

    def of(self, user: int) -> Int[np.ndarray, " length"]:
        return self.items[self.offsets[user] : self.offsets[user + 1]]


@dataclass(frozen=True)
class Examples:
    """One prediction a row: the history items[starts:stops] of a user, and the item to predict.

    `items` is the flat array of the sequences, shared, never copied. A target of -1 is not known
    here: pretraining masks an item of the history itself, serving has nothing to compare with.
    """

    items: Int[np.ndarray, " interactions"]
    users: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " n"]
    stops: Int[np.ndarray, " n"]
    targets: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: Int[np.ndarray, " m"]) -> "Examples":
        return Examples(
            self.items, self.users[rows], self.starts[rows], self.stops[rows], self.targets[rows]
        )

    def history(self, row: int | np.integer) -> Int[np.ndarray, " length"]:
        return self.items[self.starts[row] : self.stops[row]]


def pretraining_examples(sequences: UserSequences) -> Examples:
    """The training part of every user: all but the last two items (Figure 2 of the paper)."""
    return Examples(
        items=sequences.items,
        users=np.arange(sequences.n_users),
        starts=sequences.offsets[:-1],
        stops=sequences.offsets[1:] - PRETRAINING_HOLDOUT,
        targets=np.full(sequences.n_users, -1),
    )


def next_item_examples(sequences: UserSequences, holdout: int) -> Examples:
    """The last item before the hidden `holdout` ones is the target, all before it the history."""
    stops = sequences.offsets[1:] - holdout - 1
    return Examples(
        items=sequences.items,
        users=np.arange(sequences.n_users),
        starts=sequences.offsets[:-1],
        stops=stops,
        targets=sequences.items[stops],
    )


def prefix_examples(sequences: UserSequences, holdout: int) -> Examples:
    """Every item but the first before the hidden `holdout` ones is a target, all before it the
    history: as many examples of a user as he has targets, one behind the other."""
    counts = sequences.lengths - holdout - 1
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
    """As the log was n items of every user before its end; the catalogue stays what it is.

    Raises:
        InputError: a user would have fewer than SHORTEST_SEQUENCE items left.
    """
    if n == 0:
        return sequences
    lengths = sequences.lengths - n
    if (short := np.flatnonzero(lengths < SHORTEST_SEQUENCE)).size:
        most = max(sequences.lengths.min() - SHORTEST_SEQUENCE, 0)
        raise InputError(
            f"config.data.drop_last: found {n}, which leaves under {SHORTEST_SEQUENCE} items to "
            f"user {sequences.user_ids[short[0]]} (and in all to {len(short)}), expected at most "
            f"{most} for {sequences.name}"
        )
    stops = np.repeat(sequences.offsets[1:] - n, sequences.lengths)
    return replace(
        sequences,
        name=f"{sequences.name} without the last {n}",
        items=sequences.items[np.arange(len(sequences.items)) < stops],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(sequences.offsets.dtype),
    )


def repeats(sequences: UserSequences, holdout: int) -> int:
    """Interactions with an item that the user had before, but for the last `holdout` of each."""
    users = np.repeat(np.arange(sequences.n_users), sequences.lengths)
    stops = np.repeat(sequences.offsets[1:] - holdout, sequences.lengths)
    shown = np.arange(len(users)) < stops
    pairs = users[shown] * sequences.n_items + sequences.items[shown]
    return len(pairs) - len(np.unique(pairs))


def whole_histories(sequences: UserSequences) -> Examples:
    """Everything that is known of every user, to recommend what comes after it."""
    return Examples(
        items=sequences.items,
        users=np.arange(sequences.n_users),
        starts=sequences.offsets[:-1],
        stops=sequences.offsets[1:],
        targets=np.full(sequences.n_users, -1),
    )


def sample_users(examples: Examples, users: int) -> Examples:
    """A seeded sample without replacement, in order; all where `users` is 0 or not fewer."""
    return examples if users == 0 else examples.take(sample_rows(len(examples), users))


def sample_rows(n: int, users: int) -> Int[np.ndarray, " m"]:
    """Which of n examples a sample of so many users takes, in order.

    The same whatever the run's seed: runs that differ in it are tested on the same users.
    """
    if users >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng([SAMPLE_SEED, users]).choice(n, users, replace=False))


def from_lists(
    name: str, user_ids: Sequence[int], sequences: Sequence[Sequence[int]]
) -> UserSequences:
    """Ragged arrays from published ids: `sequences[u]` are the item ids of `user_ids[u]`.

    Raises:
        ValueError: a sequence too short to be split.
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    if lengths.min() < SHORTEST_SEQUENCE:
        raise ValueError(f"a sequence of {lengths.min()} items, expected {SHORTEST_SEQUENCE}")
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
    """The (line number, integers) of every line of a text file of `user item item …`.

    Raises:
        InputError: a file that cannot be read or is empty; a line that is empty or holds something
            other than positive whole numbers, which is named.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as {what}: {error}") from None
    parsed = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            raise InputError(f"{path}, line {number}: found nothing, expected 'user item item …'")
        for word in words:
            digits = word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS
            if not (digits and 0 < int(word) <= LARGEST_ID):
                raise InputError(
                    f"{path}, line {number}: found {word[:40]!r}, expected a whole number from 1 "
                    f"to {LARGEST_ID}"
                )
        parsed.append((number, [int(word) for word in words]))
    if not parsed:
        raise InputError(f"{path}: the file is empty, expected lines of 'user item item …'")
    return parsed


def read_sequence_file(path: Path, name: str) -> UserSequences:
    """A file in S3-Rec's format: a line `user item item …` for every user, oldest item first.

    Raises:
        InputError: see `read_id_lines`; also a user with fewer than three items, or given twice.
    """
    return _read_flawless(path, name) or _read_line_by_line(path, name)


def _read_flawless(path: Path, name: str) -> UserSequences | None:
    """A file without any fault, in bulk; None for one that must be looked at line by line."""
    try:
        text = path.read_bytes().replace(b"\r\n", b"\n")
    except OSError:
        return None
    if not text or text.translate(None, b"0123456789 \t\n"):
        return None
    letters = np.frombuffer(text, dtype=np.uint8)
    is_digit = np.concatenate([[False], letters >= ord("0"), [False]])
    edges = np.flatnonzero(is_digit[1:] != is_digit[:-1])  # starts and ends of words, in turn
    starts, ends = edges[::2], edges[1::2]
    line_ends = np.flatnonzero(letters == ord("\n"))
    if letters[-1] != ord("\n"):
        line_ends = np.append(line_ends, len(letters))
    last = np.searchsorted(starts, line_ends)
    lengths = np.diff(last, prepend=0) - 1  # items of each line
    if lengths.min() < SHORTEST_SEQUENCE or (ends - starts).max() > MOST_DIGITS:
        return None
    numbers = np.fromstring(text, dtype=np.int64, sep=" ")
    is_user = np.zeros(len(numbers), dtype=bool)
    is_user[last - lengths - 1] = True
    users, ids = numbers[is_user], numbers[~is_user]
    too_far = numbers.min() < 1 or numbers.max() > LARGEST_ID
    if too_far or len(np.unique(users)) < len(users):
        return None
    item_ids, items = _numbered(ids)
    return UserSequences(name, items, np.concatenate([[0], np.cumsum(lengths)]), users, item_ids)


def _numbered(
    ids: Int[np.ndarray, " n"],
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " n"]]:
    """The distinct ids in order, and the place of each; without sorting where ids lie close."""
    largest = int(ids.max())
    if largest > 4 * len(ids):
        item_ids, items = np.unique(ids, return_inverse=True)
        return item_ids, items.astype(np.int32)
    there = np.zeros(largest + 1, dtype=bool)
    there[ids] = True
    return np.flatnonzero(there), (np.cumsum(there, dtype=np.int32) - 1)[ids]


def _read_line_by_line(path: Path, name: str) -> UserSequences:
    """Slow, and sees where a fault is."""
    line_of_user: dict[int, int] = {}
    sequences = []
    for number, ids in read_id_lines(path, "a sequence file"):
        if len(ids) < 1 + SHORTEST_SEQUENCE:
            raise InputError(
                f"{path}, line {number}: user {ids[0]} has {len(ids) - 1} items, expected at least "
                f"{SHORTEST_SEQUENCE} (one each to train, validate and test)"
            )
        user, *items = ids
        if user in line_of_user:
            raise InputError(
                f"{path}, line {number}: user {user} stands on line {line_of_user[user]} already, "
                "expected one line a user"
            )
        line_of_user[user] = number
        sequences.append(items)
    return from_lists(name, list(line_of_user), sequences)
