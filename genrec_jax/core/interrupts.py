"""Ctrl-C in a process that runs a command: the handler of SIGINT outside training.

Python's own handler raises KeyboardInterrupt wherever the program happens to be. In the middle of
an import of JAX that ends in a traceback or a segmentation fault; in a callback of the garbage
collector it is swallowed, and the program continues; libraries that read
files in threads turn it into errors of their own.
"""

import os
import signal
import sys
import threading
from types import FrameType

INTERRUPTED = 130
SECONDS_TO_NEXT_TRY = 0.05
SWALLOWS = ("_xla_gc_callback", "__del__")  # what Python calls by itself has no caller to tell

_came = threading.Event()


def came() -> bool:
    """Whether a KeyboardInterrupt was raised here: what fails after it fails because of it."""
    return _came.is_set()


def handle(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT.

    Raises:
        KeyboardInterrupt: where that reaches `run_command`. During an import the process ends at
            once, since nothing has begun that could be cleaned up; in a function that would swallow
            the exception, the signal is repeated a little later.
    """
    at: FrameType | None = frame
    while at is not None:
        if at.f_code.co_filename.startswith("<frozen importlib"):
            if sys.stderr is not None:
                sys.stderr.write("interrupted\n")
                sys.stderr.flush()
            os._exit(INTERRUPTED)
        if at.f_code.co_name in SWALLOWS:
            again = threading.Timer(SECONDS_TO_NEXT_TRY, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        at = at.f_back
    _came.set()
    signal.default_int_handler(number, frame)
