"""Progress and log lines on the console.

Progress is a bar with rate and remaining time on a terminal, elsewhere a log line now and then.
Log lines are printed around the bar, so that neither breaks the other.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from genrec_jax.core.processes import is_first

log = logging.getLogger(__name__)
T = TypeVar("T")

SECONDS_BETWEEN_LINES = 20.0


def track(items: Iterable[T], label: str, total: int, unit: str = "batch") -> Iterator[T]:
    """The items, one after the other, while saying how far they have got."""
    if not is_first():
        yield from items
        return
    if _has_terminal():
        yield from tqdm(items, desc=label, total=total, unit=unit, leave=False)
        return
    start = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - said > SECONDS_BETWEEN_LINES:
            said = now
            log.info(tqdm.format_meter(done, total, now - start, prefix=label, unit=unit, ncols=0))
        yield item


@contextlib.contextmanager
def track_steps(label: str, total: int, done: int) -> Iterator[Callable[[int], object]]:
    """Gives a function to be told of every n steps more; `done` of `total` were made before."""
    with contextlib.ExitStack() as stack:
        if is_first() and _has_terminal():
            bar = tqdm(desc=label, total=total, initial=done, unit="step", leave=False)
            yield stack.enter_context(bar).update
            return
        start = said = time.monotonic()
        now_done = done

        def tell(n: int) -> None:
            nonlocal said, now_done
            now_done += n
            now = time.monotonic()
            if now - said > SECONDS_BETWEEN_LINES:
                said = now
                line = tqdm.format_meter(
                    now_done, total, now - start, prefix=label, unit="step", initial=done, ncols=0
                )
                log.info(line)

        yield tell


def _has_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # `2>&-` closes it
