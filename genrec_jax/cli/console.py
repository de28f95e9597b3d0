"""Log lines on the console while a command runs."""

import contextlib
import logging
import sys
from collections.abc import Iterator

from tqdm import tqdm

from genrec_jax.core.disk import writing


class ConsoleHandler(logging.Handler):
    """A logging handler that prints on standard output without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record. Raises DiskError if standard output cannot be written."""
        if sys.stdout is None:  # closed by the shell's `>&-`
            return
        with writing("standard output"):
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


@contextlib.contextmanager
def logging_to_console() -> Iterator[None]:
    """Print the package's log lines of level INFO and above on standard output inside the block."""
    logger = logging.getLogger("genrec_jax")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    console = ConsoleHandler()
    logger.addHandler(console)
    try:
        yield
    finally:
        logger.removeHandler(console)
