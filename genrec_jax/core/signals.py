"""SIGTERM and SIGINT: the first asks a run to save and stop, the second ends it immediately.

A stop request is announced on standard error. An announced request always ends in Stopped: the run
checks for one between its stages and batches (`StopRequest.check`), and `stop_on_signals` checks
once more at its end, after it has restored the previous signal handlers.

Python runs a signal handler only between two bytecode instructions, and a compilation by XLA is a
single one that takes minutes. Python's C code therefore also writes the signal's number to a socket
immediately, and a thread listens there. The second signal thus ends the process even during a
compilation.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from genrec_jax.core.errors import Stopped
from genrec_jax.core.processes import Agreement

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AFTER_SIGNAL = 128  # a process ended by signal n exits with code 128 + n


class StopRequest:
    """Whether the run should stop, to be checked at points where stopping loses nothing.

    If a run has several processes, a signal to one of them is enough: all processes stop at the
    same check. All of them must therefore make the same checks in the same order.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None  # the first signal received
        self._agreement = Agreement()

    def is_due(self) -> bool:
        """Check like `check`, but return whether the run should stop instead of raising."""
        return self._agreement.poll() is not None

    def check(self) -> None:
        """Raise Stopped if the run should stop at this point."""
        if (name := self._agreement.poll()) is not None:
            raise Stopped(name)

    def final_check(self) -> None:
        """Raise Stopped in every process if any process has received a signal.

        All processes call it once, after their last `check`.
        """
        if (name := self._agreement.pending_anywhere()) is not None:
            raise Stopped(name)

    def checked(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the items, with a `check` before each of them."""
        for item in items:
            self.check()
            yield item

    def handle(self, number: int, frame: object = None) -> None:
        """Handle a signal: request a stop at the next check. Further requests have no effect."""
        self._agreement.request(signal.Signals(number).name)

    def listen(self, numbers: socket.socket) -> None:
        """Handle signals whose numbers arrive on a socket, until its other end is closed.

        The first one requests a stop and announces it; the second one ends the process.
        """
        while received := numbers.recv(1):
            if received[0] not in SIGNALS:
                continue
            if self._signal is not None:
                os._exit(AFTER_SIGNAL + received[0])
            self._signal = signal.Signals(received[0])
            self.handle(self._signal)
            print(
                f"{self._signal.name}: saving and stopping; a second signal ends the process "
                "immediately",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT inside the block into a StopRequest.

    Python handles signals in the main thread only. In any other thread, no stop is ever requested.

    Raises:
        Stopped: a signal came after the last check inside the block.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    # The handler requests a stop too: it may run before the listener has read the signal's number.
    handlers = {number: signal.signal(number, request.handle) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writing.fileno())
    listener = threading.Thread(target=request.listen, args=(reading,), daemon=True)
    listener.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        writing.close()
        listener.join()
        reading.close()
    request.final_check()
