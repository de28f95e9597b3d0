"""SIGTERM and SIGINT: the first asks a run to save and leave, the second ends it at once.

A request is announced on standard error, and an announced request always ends in Stopped: the run
looks for one between its stages and batches (`heed`), and leaving `stop_on_signals` looks once
more, when the signals have their default action back.

Python runs a signal's handler only between its own instructions, and a compilation is one of them
that takes minutes. The signal's number is therefore also written to a socket, by C code and at
once, and a thread listens there: the second signal ends the process even while XLA compiles.
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
AFTER_SIGNAL = 128  # the exit code of a process that a signal ended, less the signal's number


class StopRequest:
    """Whether the process was asked to stop, to be looked at where stopping loses nothing.

    Of several processes it is enough that one was asked: all stop at the same look.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._agreement = Agreement()

    def is_due(self) -> bool:
        return self._agreement.reached() is not None

    def heed(self) -> None:
        """Raise Stopped if the process was asked to stop."""
        if (name := self._agreement.reached()) is not None:
            raise Stopped(name)

    def heed_last(self) -> None:
        """Raise Stopped, in all processes, if one was asked to stop and none has stopped yet."""
        if (name := self._agreement.asked_anywhere()) is not None:
            raise Stopped(name)

    def heeded(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items, with a look before each."""
        for item in items:
            self.heed()
            yield item

    def handle(self, number: int, frame: object = None) -> None:
        """Ask to stop at the next look; asking again changes nothing."""
        self._agreement.ask(signal.Signals(number).name)

    def listen(self, numbers: socket.socket) -> None:
        """Until the other end is closed."""
        while received := numbers.recv(1):
            if received[0] not in SIGNALS:
                continue
            if self._signal is not None:
                os._exit(AFTER_SIGNAL + received[0])
            self._signal = signal.Signals(received[0])
            self.handle(self._signal)
            print(
                f"{self._signal.name}: saving, then leaving; a second signal leaves at once",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within, signals do nothing but what the module says.

    Python takes signals in the main thread alone: in another one the request is never made.

    Raises:
        Stopped: a signal came after the last look within.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    # The handler asks too: when it runs, the listener may not have read the signal yet.
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
    request.heed_last()
