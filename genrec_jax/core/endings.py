"""How a command ends: its exit code, and one line on standard error if it did not succeed."""

import contextlib
import os
import sys
from collections.abc import Callable

from genrec_jax.core.disk import disk_fault, writing
from genrec_jax.core.errors import DiskError, InputError, NotFiniteError, Stopped
from genrec_jax.core.interrupts import INTERRUPTED, was_interrupted

CODES = {Stopped: 75, NotFiniteError: 3, DiskError: 74, InputError: 2}  # the first match counts
UNWRITTEN = "interrupted; nothing was written"
RESUMABLE = "interrupted; rerun the command to resume from the files on disk"
EXIT_CODES = """\
A failing command prints one line on standard error. Exit codes:

  0    success                               74   disk error: full, read-only or failing
  1    internal error, with a traceback;     75   stopped by SIGTERM or SIGINT with everything
       sweep: some trials failed;                 saved: rerun the command to resume
       benchmark soak: time or memory grew
  2    bad input, the workdir is in use, or  130, 143   ended immediately by SIGINT or SIGTERM
       out of device memory
  3    loss or parameters not finite"""


def run_command(
    work: Callable[[], int | None],
    interrupted: str = UNWRITTEN,
    reports: Callable[[BaseException], bool] = lambda error: True,
) -> int:
    """Run a command and return its exit code.

    Args:
        work: the command; it may return an exit code, and None counts as 0.
        interrupted: the line to print after Ctrl-C.
        reports: whether this process prints the line for an error. If a command runs in several
            processes, one of them prints it.

    Raises:
        Exception: an internal error, which ends in a traceback.
    """
    try:
        code = work() or 0
        if sys.stdout is not None:  # the shell's `>&-` closes it
            with writing("standard output"):
                sys.stdout.flush()
        return code
    except (Exception, Stopped, KeyboardInterrupt) as error:
        # After an interrupt, any other error is taken as its consequence.
        if was_interrupted() and not isinstance(error, Stopped):
            error = KeyboardInterrupt()
        if (end := ending(error, interrupted)) is None:
            raise
        _drop_unwritable_output()
        code, line = end
        if reports(error):
            _print_error(line)
        return code


def ending(error: BaseException, interrupted: str = UNWRITTEN) -> tuple[int, str] | None:
    """Return how a command ends after an exception.

    Args:
        error: the exception that reached `run_command`.
        interrupted: the line for Ctrl-C.

    Returns:
        The exit code and the line to print, or None for an internal error.
    """
    if isinstance(error, Stopped):
        return CODES[Stopped], f"stopped by {error}; rerun the command to resume"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, interrupted
    if isinstance(error, BrokenPipeError):
        reason = "the process that reads it has exited"
        return CODES[DiskError], f"error: standard output cannot be written: {reason}"
    for kind, code in CODES.items():
        if isinstance(error, kind):
            return code, f"error: {error}"
    if (fault := disk_fault(error)) is not None:  # raised outside of every `writing` block
        return CODES[DiskError], f"error: disk error: {fault}"
    if _is_out_of_device_memory(error):
        reason = " ".join(str(error).split())[:160]
        remedy = "lower config.evaluate.batch_size, config.evaluate.beams or a phase's batch_size"
        return CODES[InputError], f"error: out of device memory ({reason}); {remedy}"
    return None


def _print_error(line: str) -> None:
    """Print a message on standard error as one line, even if it quotes text with line breaks."""
    if sys.stderr is None:  # closed by the shell's `2>&-`; print() would use standard output
        return
    with contextlib.suppress(OSError):  # a failure to print must not change the exit code
        print("\\n".join(line.splitlines()), file=sys.stderr, flush=True)


def _is_out_of_device_memory(error: BaseException) -> bool:
    jax = sys.modules.get("jax")  # not imported here: some commands run without JAX
    is_jax = jax is not None and isinstance(error, jax.errors.JaxRuntimeError)
    return is_jax and "RESOURCE_EXHAUSTED" in str(error)


def _drop_unwritable_output() -> None:
    """Discard output that standard output did not accept.

    Otherwise Python would flush it at exit, fail again and change the exit code.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
