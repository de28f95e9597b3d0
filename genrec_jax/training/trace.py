"""A trace of a few steps for the browser: `--config.profile=True`."""

import logging
import time
from pathlib import Path
from typing import Any

import jax

log = logging.getLogger(__name__)

AFTER = 3  # calls: the first ones compile
CALLS = 5


class TraceWindow:
    """Traces CALLS calls of a phase after the first AFTER, fewer where the phase is short."""

    def __init__(self, folder: Path | None):
        """Into `folder`, or not at all."""
        self._folder = folder
        self._seen = 0

    def before(self) -> None:
        """To be told of every call of the step, before."""
        if self._folder is not None and self._seen == AFTER:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)

    def after(self, result: Any, last: bool) -> float:
        """And after, with what the call returned; `last` of the phase.

        Returns the seconds that writing the trace took.
        """
        self._seen += 1
        tracing = self._folder is not None and self._seen > AFTER
        if not tracing or (self._seen < AFTER + CALLS and not last):
            return 0.0
        jax.block_until_ready(result)
        started = time.monotonic()
        jax.profiler.stop_trace()
        log.info(
            "a trace of %d calls is in %s: for TensorBoard, and its perfetto_trace.json.gz for "
            "https://ui.perfetto.dev",
            *(self._seen - AFTER, self._folder),
        )
        self._folder = None
        return time.monotonic() - started
