"""How every command ends: its exit code, and one line on standard error if it did not finish."""

import contextlib
import os
import sys
from collections.abc import Callable

from genrec_jax.core.disk import disk_fault, writing
from genrec_jax.core.errors import DiskError, InputError, NotFiniteError, Stopped
from genrec_jax.core.interrupts import INTERRUPTED, came

CODES = {Stopped: 75, NotFiniteError: 3, DiskError: 74, InputError: 2}  # the first that fits
UNWRITTEN = "interrupted; nothing was written"
RESUMABLE = "interrupted; rerun the command to resume from what is on disk"
EXIT_CODES = """\
A command that fails ends in one line. Exit codes:

  0    done                                  74   disk error: full, read-only or failing
  1    a fault of the program: a traceback;  75   stopped by SIGTERM or SIGINT with everything
       sweep: some trials failed;                 saved: rerun the command to resume
       benchmark soak: time or memory grew
  2    bad input, the workdir is taken, or   130, 143   ended at once by SIGINT, SIGTERM
       too little memory on the device
  3    loss or parameters not finite"""


def run_command(
    work: Callable[[], int | None],
    interrupted: str = UNWRITTEN,
    reports: Callable[[BaseException], bool] = lambda error: True,
) -> int:
    """Do the work of a command and return its exit code.

    Args:
        work: may return an exit code of its own; None is 0.
        interrupted: the line for Ctrl-C.
        reports: whether this process prints the line for an error; of several, one does.

    Raises:
        Exception: a fault of the program, to end in a traceback.
    """
    try:
        code = work() or 0
        if sys.stdout is not None:  # `>&-` closes it
            with writing("standard output"):
                sys.stdout.flush()
        return code
    except (Exception, Stopped, KeyboardInterrupt) as error:
        if came() and not isinstance(error, Stopped):  # of which this error is a consequence
            error = KeyboardInterrupt()
        if (end := ending(error, interrupted)) is None:
            raise
        _drop_unwritable_output()
        code, line = end
        if reports(error):
            _print_error(line)
        return code


def ending(error: BaseException, interrupted: str = UNWRITTEN) -> tuple[int, str] | None:
    """The exit code and the line for what may end a command; None for a fault of the program."""
    if isinstance(error, Stopped):
        return CODES[Stopped], f"stopped by {error}; rerun the command to resume"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, interrupted
    if isinstance(error, BrokenPipeError):
        return CODES[DiskError], "error: standard output cannot be written: its reader has ended"
    for kind, code in CODES.items():
        if isinstance(error, kind):
            return code, f"error: {error}"
    if (fault := disk_fault(error)) is not None:  # no module has said what was being written
        return CODES[DiskError], f"error: disk error: {fault}"
    if _is_out_of_device_memory(error):
        reason = " ".join(str(error).split())[:160]
        text = "lower config.evaluate.batch_size or beams, or a phase's batch_size"
        return CODES[InputError], f"error: out of device memory ({reason}); {text}"
    return None


def _print_error(line: str) -> None:
    """Print one line on standard error, even if it quotes a name with line breaks."""
    if sys.stderr is None:  # `2>&-` closes it; print() would take standard output instead
        return
    with contextlib.suppress(OSError):  # the exit code must not be lost with the line
        print("\\n".join(line.splitlines()), file=sys.stderr, flush=True)


def _is_out_of_device_memory(error: BaseException) -> bool:
    jax = sys.modules.get("jax")  # some commands work without it
    is_jax = jax is not None and isinstance(error, jax.errors.JaxRuntimeError)
    return is_jax and "RESOURCE_EXHAUSTED" in str(error)


def _drop_unwritable_output() -> None:
    """What standard output did not take must not fail again when Python flushes it at its end."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
