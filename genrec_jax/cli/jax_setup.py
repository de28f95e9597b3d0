"""JAX as every command that computes needs it."""

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from genrec_jax.core.cache import cache_dir
from genrec_jax.core.jax_settings import pin

FASTEST_CACHED = 0.5  # seconds of compilation; what takes less is compiled again


def set_up_jax() -> None:
    """Pin JAX's switches, cache compiled programs, and quiet what is reported twice.

    Raises:
        InputError: JAX_PLATFORMS names a platform that is not there.
    """
    pin()
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", FASTEST_CACHED)
    # Each of orbax's and tensorstore's threads reports a full disk by itself; what counts comes as
    # an exception.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.unraisablehook = partial(report_unless_abandoned, sys.unraisablehook)


def report_unless_abandoned(report: Callable[[Any], object], unraisable: Any) -> None:
    """Report an exception that no code can catch, unless it is about an abandoned write.

    When one array of a checkpoint cannot be written, orbax gives up the others and closes their
    event loop; tensorstore still reports each of them there later, from threads of its own.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)
