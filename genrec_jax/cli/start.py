"""The first lines of a process that runs a command, and Ctrl-C while it still imports."""

import importlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from genrec_jax.core.endings import INTERRUPTED


def start(function: str) -> NoReturn:
    """Run a function of cli/launch.py as the program.

    Where SIGINT is ignored, as behind `nohup`, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    sys.exit(getattr(importlib.import_module("genrec_jax.cli.launch"), function)(sys.argv))


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGINT: raise KeyboardInterrupt, but end the process at once during an import.

    An exception in the middle of an import of JAX ends in a traceback, a segmentation fault, or is
    swallowed. Nothing has begun then, so there is nothing to clean up.
    """
    at: FrameType | None = frame
    while at is not None:
        if at.f_code.co_filename.startswith("<frozen importlib"):
            sys.stderr.write("interrupted\n")
            sys.stderr.flush()
            os._exit(INTERRUPTED)
        at = at.f_back
    signal.default_int_handler(number, frame)
