"""Several processes, perhaps on several hosts, as one command: their flags, and how they meet."""

import logging
import re
from types import SimpleNamespace

from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import Flag

TOGETHER = ("coordinator", "processes", "process")
PROCESS_FLAGS = (
    Flag("coordinator", "Where process 0 of several listens.", expected="HOST:PORT"),
    Flag("processes", "The number of processes.", int),
    Flag("process", "The number of this process, from 0.", int, expected="I"),
    Flag(
        "distributed",
        "Take these three from SLURM, Open MPI, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
        "JAX_PROCESS_ID.",
        bool,
        False,
    ),
)


def join_others(given: SimpleNamespace) -> None:
    """Become one of several processes if the flags say so, and check that all have one config.

    Raises:
        InputError: flags that do not fit together, or processes with different configs.
    """
    values = [getattr(given, name) for name in TOGETHER]
    missing = [f"--{name}" for name in TOGETHER if getattr(given, name) is None]
    if given.distributed:
        if len(missing) < len(TOGETHER):
            raise InputError("--distributed: found --coordinator, --processes or --process beside")
    elif len(missing) == len(TOGETHER):
        return
    elif missing:
        raise InputError(
            f"{' and '.join(missing)}: missing, expected all of --{', --'.join(TOGETHER)}"
        )
    elif not is_address(given.coordinator):
        raise InputError(
            f"--coordinator: found {given.coordinator!r}, expected HOST:PORT with a port from 1 "
            "to 65535, as in localhost:29500"
        )
    elif given.process not in range(given.processes):
        raise InputError(
            f"--process: found {given.process}, expected a number from 0 to below "
            f"--processes={given.processes}"
        )
    from genrec_jax.core import processes  # imports JAX, which the checks above do without

    processes.join(*values)
    if not processes.is_first():
        logging.getLogger("genrec_jax").setLevel(logging.ERROR)
    processes.check_same(given.config.to_json(), "config")


def is_address(text: str) -> bool:
    match = re.fullmatch(r"[^\s:]+:(\d{1,5})|\[[^\s\]]+\]:(\d{1,5})", text)
    return match is not None and 0 < int(match[1] or match[2]) < 2**16
