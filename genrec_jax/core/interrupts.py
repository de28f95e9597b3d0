"""The SIGINT (Ctrl-C) handler of a process that runs a command, in use outside of training.

Python's default handler raises KeyboardInterrupt at whatever point the program has reached. This
has three drawbacks. During an import of JAX it ends in a traceback or a segmentation fault. In a
callback of the garbage collector it is swallowed, and the program continues. Libraries that read
files in threads turn it into errors of their own types.
"""

import os
import signal
import sys
import threading
from types import FrameType

INTERRUPTED = 130  # exit code
SECONDS_TO_NEXT_TRY = 0.05
# Python calls these functions itself and discards the exceptions that they raise.
SWALLOWS = ("_xla_gc_callback", "__del__")

_interrupted = threading.Event()


def was_interrupted() -> bool:
    """Return whether `handle` has raised KeyboardInterrupt.

    Any later error is then taken as a consequence of the interrupt.
    """
    return _interrupted.is_set()


def handle(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT.

    During an import the process ends immediately, because there is nothing to clean up yet. In a
    function that swallows exceptions, the signal is sent again shortly afterwards.

    Args:
        number: the signal's number.
        frame: the stack frame that the signal interrupted.

    Raises:
        KeyboardInterrupt: at any other point, from where it reaches `run_command`.
    """
    at: FrameType | None = frame
    while at is not None:
        if at.f_code.co_filename.startswith("<frozen importlib"):
            if sys.stderr is not None:
                sys.stderr.write("interrupted\n")
                sys.stderr.flush()
            os._exit(INTERRUPTED)
        if at.f_code.co_name in SWALLOWS:
            retry = threading.Timer(SECONDS_TO_NEXT_TRY, os.kill, (os.getpid(), number))
            retry.daemon = True
            retry.start()
            return
        at = at.f_back
    _interrupted.set()
    signal.default_int_handler(number, frame)
