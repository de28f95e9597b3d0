"""Progress of long loops on the console.

On a terminal, progress is a bar with rate and remaining time. Elsewhere it is a log line every
SECONDS_BETWEEN_LINES. Log lines are printed above the bar, so that neither disturbs the other.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from genrec_jax.core.processes import is_process_0

log = logging.getLogger(__name__)
T = TypeVar("T")

SECONDS_BETWEEN_LINES = 20.0


def track(items: Iterable[T], label: str, total: int, unit: str = "batch") -> Iterator[T]:
    """Yield the items and show the progress through them.

    Args:
        items: the items to iterate over.
        label: the text before the progress.
        total: the number of items.
        unit: what one item is.
    """
    if not is_process_0():
        yield from items
        return
    if _has_terminal():
        yield from tqdm(items, desc=label, total=total, unit=unit, leave=False)
        return
    start = last_logged = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last_logged > SECONDS_BETWEEN_LINES:
            last_logged = now
            log.info(tqdm.format_meter(done, total, now - start, prefix=label, unit=unit, ncols=0))
        yield item


@contextlib.contextmanager
def track_steps(label: str, total: int, done: int) -> Iterator[Callable[[int], object]]:
    """Show the progress of training steps inside the block.

    Args:
        label: the text before the progress.
        total: the number of steps.
        done: steps completed before the block.

    Yields:
        A function to call with the number of steps completed since its last call.
    """
    with contextlib.ExitStack() as stack:
        if is_process_0() and _has_terminal():
            bar = tqdm(desc=label, total=total, initial=done, unit="step", leave=False)
            yield stack.enter_context(bar).update
            return
        start = last_logged = time.monotonic()
        completed = done

        def advance(n: int) -> None:
            nonlocal last_logged, completed
            completed += n
            now = time.monotonic()
            if now - last_logged > SECONDS_BETWEEN_LINES:
                last_logged = now
                line = tqdm.format_meter(
                    completed, total, now - start, prefix=label, unit="step", initial=done, ncols=0
                )
                log.info(line)

        yield advance


def _has_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # the shell's `2>&-` closes it
