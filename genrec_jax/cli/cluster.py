"""The flags of a run in several processes, perhaps on several hosts, and how they connect."""

import logging
import re
from types import SimpleNamespace

from genrec_jax.core.errors import InputError
from genrec_jax.core.flags import Flag

ADDRESS_FLAGS = ("coordinator", "processes", "process")  # all or none of them must be given
PROCESS_FLAGS = (
    Flag(
        "coordinator",
        "Run in several processes that connect to process 0 at this address.",
        expected="HOST:PORT",
    ),
    Flag("processes", "The number of processes of the run.", int),
    Flag("process", "The number of this process, counted from 0.", int, expected="I"),
    Flag(
        "distributed",
        "Take the values of the three flags above from SLURM or Open MPI, or from the environment "
        "variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.",
        bool,
        False,
    ),
)


def join_processes(arguments: SimpleNamespace) -> None:
    """Connect to the other processes of the run if the flags request it.

    Afterwards, only process 0 logs anything less severe than an error.

    Args:
        arguments: the parsed command line, with the values of PROCESS_FLAGS and `config`.

    Raises:
        InputError: the flags do not fit together, the processes cannot be connected, or their
            configs differ.
    """
    values = [getattr(arguments, name) for name in ADDRESS_FLAGS]
    missing = [f"--{name}" for name in ADDRESS_FLAGS if getattr(arguments, name) is None]
    if arguments.distributed:
        if len(missing) < len(ADDRESS_FLAGS):
            raise InputError(
                "--distributed: found together with --coordinator, --processes or --process, "
                "expected none of them"
            )
    elif len(missing) == len(ADDRESS_FLAGS):
        return
    elif missing:
        raise InputError(
            f"{' and '.join(missing)}: missing, expected all of --{', --'.join(ADDRESS_FLAGS)}"
        )
    elif not is_address(arguments.coordinator):
        raise InputError(
            f"--coordinator: found {arguments.coordinator!r}, expected HOST:PORT with a port from "
            "1 to 65535, such as localhost:29500"
        )
    elif arguments.process not in range(arguments.processes):
        raise InputError(
            f"--process: found {arguments.process}, expected a number from 0 to below "
            f"--processes={arguments.processes}"
        )
    from genrec_jax.core import processes  # imports JAX, which the checks above do not need

    processes.join(*values)
    if not processes.is_process_0():
        logging.getLogger("genrec_jax").setLevel(logging.ERROR)
    processes.check_same(arguments.config.to_json(), "config")


def is_address(text: str) -> bool:
    """Return whether a text is HOST:PORT or [IPV6]:PORT with a valid port."""
    match = re.fullmatch(r"[^\s:]+:(\d{1,5})|\[[^\s\]]+\]:(\d{1,5})", text)
    return match is not None and 0 < int(match[1] or match[2]) < 2**16
