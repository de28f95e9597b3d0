"""The first lines of a process that runs a command."""

import importlib
import io
import signal
import sys
from typing import NoReturn

from genrec_jax.core.interrupts import handle


def start(function: str) -> NoReturn:
    """Run a function of cli/launch.py as the program.

    Where SIGINT is ignored, as behind `nohup`, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handle)
    if isinstance(sys.stdout, io.TextIOWrapper):  # as standard error: `±` is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    code = getattr(importlib.import_module("genrec_jax.cli.launch"), function)(sys.argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is decided how the process ends
    sys.exit(code)
