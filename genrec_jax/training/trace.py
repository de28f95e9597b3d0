"""A profiler trace of a few dispatches: `--config.profile=True`."""

import logging
import time
from pathlib import Path
from typing import Any

import jax

log = logging.getLogger(__name__)

SKIPPED = 3  # dispatches before the trace: the first ones compile
TRACED = 5


class TraceWindow:
    """Trace TRACED dispatches of a phase after the first SKIPPED, fewer in a short phase."""

    def __init__(self, folder: Path | None):
        """Prepare a trace that is written to `folder`; None: no trace."""
        self._folder = folder
        self._seen = 0

    def before(self) -> None:
        """Start the trace if the next dispatch is the first to be traced."""
        if self._folder is not None and self._seen == SKIPPED:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)

    def after(self, result: Any, last: bool) -> float:
        """Stop and write the trace after its last dispatch.

        Args:
            result: what the dispatch returned.
            last: whether it was the last dispatch of the phase.

        Returns:
            The seconds that writing the trace took.
        """
        self._seen += 1
        tracing = self._folder is not None and self._seen > SKIPPED
        if not tracing or (self._seen < SKIPPED + TRACED and not last):
            return 0.0
        jax.block_until_ready(result)
        started = time.monotonic()
        jax.profiler.stop_trace()
        log.info(
            "wrote a trace of %d dispatches to %s (open it in TensorBoard, or its "
            "perfetto_trace.json.gz at https://ui.perfetto.dev)",
            *(self._seen - SKIPPED, self._folder),
        )
        self._folder = None
        return time.monotonic() - started
