"""Progress: a bar with rate and remaining time on a terminal, elsewhere a line now and then."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)
T = TypeVar("T")

SECONDS_BETWEEN_LINES = 20.0


def track(items: Iterable[T], label: str, total: int, unit: str = "batch") -> Iterator[T]:
    """The items, one after the other, while saying how far they have got."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=label, total=total, unit=unit, leave=False)
        return
    start = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - said > SECONDS_BETWEEN_LINES:
            said = now
            log.info(tqdm.format_meter(done, total, now - start, prefix=label, unit=unit, ncols=0))
        yield item


class ConsoleHandler(logging.Handler):
    """Log lines on standard output that leave a progress bar whole."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()
