"""Generate raw logs in the formats of public sources, with noise outside the core."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from genrec_jax.data.prepared import read_log_metadata, read_prepared

Sequences = dict[str, list[str]]  # user id → item ids, oldest first
CORE = 5


class Event(NamedTuple):
    user: str
    item: str
    day: int  # from 0


def core_by_hand(sequences: Sequences, core: int = CORE) -> Sequences:
    """Return the k-core, computed with a plain loop."""
    while True:
        counts = Counter(item for items in sequences.values() for item in items)
        kept = {
            user: [item for item in items if counts[item] >= core]
            for user, items in sequences.items()
            if len(items) >= core
        }
        if kept == sequences:
            return kept
        sequences = kept


def real_sequences(path: Path, users: int | None = None) -> Sequences:
    """Return the core of a sequence file's first users (None: all), with ids like Amazon's."""
    sequences = {}
    for line in path.read_text().splitlines()[:users]:
        user, *items = line.split()
        sequences[f"A{user}USER"] = [f"B00{item}" for item in items]
    return core_by_hand(sequences)


def with_noise(sequences: Sequences, seed: int = 0) -> list[Event]:
    """Return the events of the sequences and events outside their 5-core, in random order.

    The filter removes some of the noise in its first round, and some only in the third.
    """
    draw = random.Random(seed)
    items = sorted({item for sequence in sequences.values() for item in sequence})
    events = [
        Event(user, item, 3 * index)
        for user, sequence in sequences.items()
        for index, item in enumerate(sequence)
    ]
    users = sorted(sequences)
    for noise in range(len(users) // 4):
        for _ in range(draw.randint(1, CORE - 1)):  # a user below the core, with items in it
            events.append(Event(f"NOISE{noise}", draw.choice(items), draw.randrange(90)))
        for _ in range(draw.randint(1, CORE - 1)):  # an item below the core, with users in it
            events.append(Event(draw.choice(users), f"NOISE{noise}", 3 * draw.randrange(30) + 1))
    for chain in range(20):
        # A user with five events. One of them is with an item that is removed in the second round,
        # since one of its five users is removed in the first.
        late = [Event(f"LATE{chain}", item, day) for day, item in enumerate(items[:4])]
        events += [*late, Event(f"LATE{chain}", f"LATE{chain}", 50)]
        events += [Event(draw.choice(users), f"LATE{chain}", 3 * n + 2) for n in range(3)]
        events.append(Event(f"ONCE{chain}", f"LATE{chain}", 1))
    draw.shuffle(events)
    return events


def write_amazon2014(events: Iterable[Event], path: Path) -> None:
    """Write reviews_X_5.json.gz; every third line is a Python literal, as in some of the files."""
    with gzip.open(path, "wt", compresslevel=1) as file:
        for number, (user, item, day) in enumerate(events):
            review = {
                "reviewerID": user,
                "asin": item,
                "reviewerName": 'L. O\'Hara "Lo"',
                "helpful": [1, 2],
                "reviewText": "Très bon.\tWould buy again: 10/10\n",
                "overall": 5.0,
                "unixReviewTime": 1356739200 + 86400 * day,
                "reviewTime": "12 29, 2012",
            }
            file.write((repr(review) if number % 3 == 0 else json.dumps(review)) + "\n")


def write_yelp(events: Iterable[Event], path: Path) -> None:
    """Write yelp_academic_dataset_review.json, with additional reviews of 2018 and 2020."""
    with path.open("w") as file:
        for number, (user, item, day) in enumerate(events):
            for year in (2019, 2018, 2020) if number % 2 == 0 else (2019,):
                moment = datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=day)
                review = {
                    "review_id": f"r{number}",
                    "user_id": user,
                    "business_id": item,
                    "stars": 4.0,
                    "text": 'Good "pho", слава!',
                    "date": moment.strftime("%Y-%m-%d %H:%M:%S"),
                }
                file.write(json.dumps(review, ensure_ascii=number % 2 == 0) + "\n")


def by_ids(folder: Path) -> Sequences:
    """Return the sequences of a prepared folder as the log's own ids."""
    sequences, metadata = read_prepared(folder), read_log_metadata(folder)
    return {
        metadata.user_ids[user]: [metadata.item_ids[item] for item in sequences.of(user)]
        for user in range(sequences.n_users)
    }
