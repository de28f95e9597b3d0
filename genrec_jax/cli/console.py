"""Log lines on the console while a command runs."""

import contextlib
import logging
import sys
from collections.abc import Iterator

from tqdm import tqdm

from genrec_jax.core.disk import writing


class ConsoleHandler(logging.Handler):
    """Log lines on standard output that leave a progress bar whole."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stdout is None:  # `>&-` closed it
            return
        with writing("standard output"):
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


@contextlib.contextmanager
def logging_to_console() -> Iterator[None]:
    """The package's log lines on standard output, from `info` upwards."""
    logger = logging.getLogger("genrec_jax")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    console = ConsoleHandler()
    logger.addHandler(console)
    try:
        yield
    finally:
        logger.removeHandler(console)
