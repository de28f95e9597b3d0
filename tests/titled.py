"""A small prepared dataset with titles of all kinds, for the tests that need one."""

from pathlib import Path

import numpy as np

from genrec_jax.data.prepared import Prepared, write_prepared

WORDS = ["red", "blue", "soft", "hair", "care", "face", "cream", "oil", "mask", "brush", "nail"]
HARD: list[str | None] = [
    None,
    "",
    "Shampoo",
    "Shampoo",  # the same as the one before
    "Shampoo 3",  # perhaps what a number would make of it
    "Shampoo Set",  # begins as another does
    "Shampoo Set for Him",
    "  two\tspaces \n and a line  ",
    '</s><mask> tags & <b>markup</b> "quoted"',
    "item_7",
    "Crème brûlée — édition limitée",
    "日本語のとても長いタイトルで、どこにも空白がないので、語の終わりで切ることができません",
    "شامبو للشعر الجاف",
    "e\u0301 and é are the same",
    "🧴🪥 " * 20,
    "word " * 60,
    "x" * 300,
    "nul\x00 and \x1b[31mescape\u2028separator",
]


def titles(n_items: int) -> list[str | None]:
    """HARD, then made of a few words, so that many begin alike."""
    rng = np.random.default_rng(5)
    made = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(n_items - len(HARD))]
    return [*HARD, *made]


def write_titled(folder: Path, n_users: int = 120, n_items: int = 200, prefix: str = "A") -> Path:
    """Users walk from item to item + 1 … + 5, so that there is something to learn."""
    rng = np.random.default_rng(6)
    lengths = rng.integers(4, 10, n_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    steps = rng.integers(1, 6, offsets[-1])
    steps[offsets[:-1]] = rng.integers(0, n_items, n_users)
    walked = np.cumsum(steps)
    start = np.repeat(walked[offsets[:-1]] - steps[offsets[:-1]], lengths)
    items = (walked - start) % n_items
    items[:n_items] = rng.permutation(n_items)  # every item occurs
    prepared = Prepared(
        items=(items + 1).astype(np.int32),
        times=1_400_000_000 + np.arange(offsets[-1]),
        offsets=offsets,
        user_ids=[f"user {row} é" if row % 2 else f"{prefix}{row:05d}" for row in range(n_users)],
        item_ids=[f"B00{row:05d}" for row in range(n_items)],
        titles=titles(n_items),
        attributes=[["Beauty", f"brand {row % 7}"] if row % 3 else None for row in range(n_items)],
    )
    folder.mkdir(parents=True)
    write_prepared(folder, "titled", prepared)
    return folder
