"""The JAX setup shared by all commands that compute."""

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from genrec_jax.core.cache import cache_dir
from genrec_jax.core.jax_settings import pin

FASTEST_CACHED = 0.5  # seconds; a program that compiles faster is not cached


def set_up_jax() -> None:
    """Pin JAX's settings, cache compiled programs, and silence duplicate error reports."""
    pin()
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", FASTEST_CACHED)
    # Every thread of orbax and tensorstore logs a full disk separately. The command reports the
    # exception that they raise.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.unraisablehook = partial(report_unless_abandoned, sys.unraisablehook)


def report_unless_abandoned(report: Callable[[Any], object], unraisable: Any) -> None:
    """Report an exception that no code can catch, unless it concerns an abandoned write.

    If one array of a checkpoint cannot be written, orbax abandons the remaining arrays and closes
    their event loop. Threads of tensorstore still report each of those arrays later.

    Args:
        report: the hook to call, as in `sys.unraisablehook`.
        unraisable: the exception and its context, as passed to that hook.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)
