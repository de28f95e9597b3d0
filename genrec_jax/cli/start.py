"""The entry point of a process that runs a command."""

import importlib
import io
import signal
import sys
from typing import NoReturn

from genrec_jax.core.interrupts import handle


def start(function: str) -> NoReturn:
    """Run a function of cli/launch.py as the program and exit with its exit code.

    If SIGINT is ignored, as under `nohup`, it remains ignored.

    Args:
        function: the function's name: "by_name" or "by_mode".
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handle)
    # As on standard error, a character that the encoding lacks, such as `±`, must not be an error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    code = getattr(importlib.import_module("genrec_jax.cli.launch"), function)(sys.argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the exit code is final
    sys.exit(code)
