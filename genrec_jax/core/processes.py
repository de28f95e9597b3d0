"""Several processes that form one run: how they connect, synchronise and exchange results.

Every process runs the same program on the same inputs. Only process 0 writes files and prints
output. An event that a single process observes (a lock held by another command, a full disk, a
signal, elapsed time) is shared through JAX's coordination service, from host to host. No device
takes part in that, and no training step waits for it. All processes therefore continue or stop
together, with the same message and the same exit code. In a single process, all functions here are
local and communicate with nothing.

Every process must call `run_on_process_0`, `barrier`, `all_gather` and `Agreement.poll` in the same
order.
"""

import atexit
import itertools
import json
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
from jax._src import distributed  # the coordination service's client has no public name

from genrec_jax.core.errors import DiskError, InputError, NotFiniteError, Stopped

T = TypeVar("T")
P = ParamSpec("P")

SECONDS_BETWEEN_LOOKUPS = 1.0  # of a listener for requests of other processes
SECONDS_BETWEEN_RETRIES = 0.05  # of a listener for the other processes' answers to a request
# Long enough for a host that reads a large dataset. A process that died causes no such wait: JAX
# notices its missing heartbeat and ends the other processes.
LONGEST_WAIT = 24 * 3600 * 1000  # milliseconds
LONGEST_GOODBYE = 20  # seconds that a process waits for the others before it exits

ERRORS = {kind.__name__: kind for kind in (InputError, DiskError, NotFiniteError, OSError)}
REMOTE = "raised in process"  # the start of a note on an error that another process raised
_exchanges = itertools.count()
_agreements = itertools.count()


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Connect this process to the other processes of the run, before any device is used.

    Arrays are then exchanged by gloo between CPUs and by NCCL between GPUs.

    Args:
        coordinator: HOST:PORT where process 0 listens. If all three arguments are None, their
            values come from SLURM or Open MPI, or from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
            and JAX_PROCESS_ID.
        processes: the number of processes.
        process: the number of this process, from 0.

    Raises:
        InputError: the values cannot be determined, or a process does not connect.
    """
    jax.config.update("jax_enable_preemption_service", False)  # core/signals.py handles SIGTERM
    flag = "--distributed" if coordinator is None else f"--coordinator={coordinator}"
    try:
        jax.distributed.initialize(
            coordinator, processes, process, shutdown_timeout_seconds=LONGEST_GOODBYE
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{flag}: the processes cannot be connected: {reason}") from None


def check_same(text: str, name: str) -> None:
    """Raise InputError in every process if the processes do not all have the same text.

    Args:
        text: this process's text.
        name: what the text is, for the message, such as "config".
    """
    expected = run_on_process_0(lambda: text)

    def check() -> None:
        if text != expected:
            raise InputError(
                f"--process={distributed.global_state.process_id}: found a {name} that differs "
                "from that of process 0, expected the same flags in every process"
            )

    barrier(check)


def reports_error(error: BaseException) -> bool:
    """Return whether this process should report the error that ends it.

    Process 0 always reports. Any other process reports an error that it raised itself, unless that
    is one that all processes raise alike.
    """
    return is_process_0() or not (isinstance(error, Stopped | NotFiniteError) or _is_remote(error))


def count() -> int:
    """Return the number of processes of the run."""
    return distributed.global_state.num_processes or 1


def is_process_0() -> bool:
    """Return whether this is process 0, which writes files and logs. Uses no device."""
    return not distributed.global_state.process_id


def barrier(work: Callable[[], T]) -> T:
    """Run `work` in every process and wait until all processes have finished it.

    Returns:
        The result of `work` in this process.

    Raises:
        Exception: if `work` fails in any process, all processes raise the error of the
            lowest-numbered process in which it failed.
    """
    if count() == 1 or _local.is_alone:
        return work()
    outcome = _attempt(work)
    _exchange(outcome, None)
    return outcome.result


def run_on_process_0(work: Callable[[], T]) -> T:
    """Run `work` in process 0 only and return its result in every process.

    Args:
        work: the function to run. Its result must be JSON, in order to be sent to other processes.

    Raises:
        Exception: if `work` fails, all processes raise its error.
    """
    if count() == 1 or _local.is_alone:
        return work()
    outcome = _Outcome()
    if is_process_0():
        _local.is_alone = True
        outcome = _attempt(work)
        _local.is_alone = False
    return _exchange(outcome, outcome.result)[0]


def all_gather(value: Any) -> list[Any]:
    """Gather a JSON value from every process, in the order of the processes."""
    return [value] if count() == 1 else _exchange(_Outcome(), value)


def on_process_0(work: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function or method so that it runs as by `run_on_process_0`."""

    @wraps(work)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_on_process_0(lambda: work(*args, **kwargs))

    return wrapped


class _Local(threading.local):
    """Per thread, whether it runs the `work` of `run_on_process_0`, which other processes skip."""

    is_alone = False


_local = _Local()


class Agreement:
    """An agreement between all processes on the point at which they carry out a request together.

    Any process may call `request` at any time, for instance when it receives a signal. All
    processes call `poll` at the same points of the program, such as after every training step. The
    n-th poll is the same point in every process, although the processes reach it at different
    times. The request must be carried out at one n that no process has passed yet. The protocol:

    1. A listener thread in each process looks for requests: of its own process, and of the others
       in JAX's coordination service. A listener that finds one publishes it there.
    2. Each listener publishes the number of its process's next poll, the earliest at which that
       process can carry out the request. From then on, that poll blocks until step 3 is done, so
       that the number remains valid.
    3. When the numbers of all processes are published, the largest one is agreed upon. Every
       process reads the same numbers, so that all arrive at the same result.
    4. Polls before the agreed one return None. At the agreed one, `poll` returns the request in
       every process.
    5. If the request can occur again, all processes call `reset` after carrying it out.

    The listeners answer, not the calls of `poll`: a process whose devices wait for those of another
    process would never reach its next poll. Listeners run until Python exits, because another
    process may still need an answer. In a single process, `poll` returns a request immediately and
    no listener is started.
    """

    def __init__(self) -> None:
        self._name = f"agreement {next(_agreements)}"
        self._round = 0  # the number of calls of `reset`
        self._polls = 0  # the number of calls of `poll` in this process
        self._request: str | None = None  # the request made in this process
        self._earliest: int | None = None  # the published number; that poll waits for `_agreed`
        self._agreed: tuple[int, str] | None = None  # the agreed number and the request
        self._changed = threading.Condition()
        self._exiting = threading.Event()
        if count() > 1:
            self._thread = threading.Thread(target=self._listen, name=self._name, daemon=True)
            self._thread.start()
            # A thread that is inside a call of the service when Python exits aborts the process.
            # Exit handlers run in reverse order, so this one runs before JAX's own shutdown.
            atexit.register(self._stop_listening)

    def request(self, what: str = "") -> None:
        """Request that all processes do something at the next possible poll.

        May be called from any thread. A second request before `reset` has no effect.

        Args:
            what: the request; `poll` returns it in every process.
        """
        with self._changed:
            self._request = what if self._request is None else self._request

    def poll(self) -> str | None:
        """Count one poll and return the request if it is to be carried out at this point.

        May block until all processes have agreed on the point.

        Returns:
            The request, or None if there is none or it is to be carried out at a later poll.
        """
        if count() == 1:
            return self._request
        with self._changed:
            self._polls += 1
            while self._polls == self._earliest and self._agreed is None:
                self._changed.wait()
            if self._agreed is None or self._polls < self._agreed[0]:
                return None
            return self._agreed[1]

    def pending_anywhere(self) -> str | None:
        """Return a request that a process has made and that has not been carried out, or None.

        All processes call this after their last poll. Otherwise a request made after that poll
        would be lost.
        """
        return next((what for what in all_gather(self._request) if what is not None), None)

    def reset(self) -> None:
        """Forget the request after all processes have carried it out, so that it can recur."""
        with self._changed:
            self._request = self._earliest = self._agreed = None
            self._round += 1

    # ------------------------------------------------------------------ the listener thread

    def _listen(self) -> None:
        client: Any = distributed.global_state.client
        while not self._exiting.wait(SECONDS_BETWEEN_LOOKUPS):
            with self._changed:
                number, is_settled = self._round, self._earliest is not None
                request = self._request
            if is_settled:
                continue
            key = f"genrec_jax/{self._name}/{number}"
            what = _try_get(client, f"{key}/request") if request is None else request
            if what is None:
                continue
            with self._changed:
                self._earliest = self._polls + 1
            client.key_value_set(f"{key}/request", what, allow_overwrite=True)
            own_key = f"{key}/{distributed.global_state.process_id}"
            client.key_value_set(own_key, str(self._earliest))
            answers = [self._wait_for(client, f"{key}/{process}") for process in range(count())]
            # Two processes may have published different requests: the last one counts for all.
            what = self._wait_for(client, f"{key}/request")
            if what is None or None in answers:
                return
            with self._changed:
                self._agreed = max(int(poll) for poll in answers if poll is not None), what
                self._changed.notify_all()

    def _wait_for(self, client: Any, key: str) -> str | None:
        """Return the value of a key once it is set, or None if this process exits first."""
        while (value := _try_get(client, key)) is None:
            if self._exiting.wait(SECONDS_BETWEEN_RETRIES):
                return None
        return value

    def _stop_listening(self) -> None:
        self._exiting.set()
        self._thread.join(LONGEST_GOODBYE)


class _Outcome:
    """The outcome of some work: a result, or the exception that it raised."""

    result: Any = None
    failure: Exception | None = None


def _attempt(work: Callable[[], Any]) -> _Outcome:
    outcome = _Outcome()
    try:
        outcome.result = work()
    except Exception as error:
        outcome.failure = error
    return outcome


def _exchange(outcome: _Outcome, result: Any) -> list[Any]:
    """Exchange outcomes between all processes.

    Args:
        outcome: this process's outcome, of which the failure is sent.
        result: this process's result to send, as JSON.

    Returns:
        The results of all processes, in the order of the processes.

    Raises:
        Exception: the failure of the lowest-numbered process that has one.
    """
    client: Any = distributed.global_state.client
    own, number = distributed.global_state.process_id, next(_exchanges)
    failure = outcome.failure
    sent = None if failure is None else [type(failure).__name__, *map(_plain, failure.args)]
    key = f"genrec_jax/exchange/{number}"
    client.key_value_set(f"{key}/{own}", json.dumps([sent, result if sent is None else None]))
    answers = [
        json.loads(client.blocking_key_value_get(f"{key}/{process}", LONGEST_WAIT))
        for process in range(count())
    ]
    if number:  # every process has read the previous exchange
        client.key_value_delete(f"genrec_jax/exchange/{number - 1}/{own}")
    for process, (received, _) in enumerate(answers):
        if received is not None and process == own and failure is not None:
            raise failure
        if received is not None:
            kind, *args = received
            other = RuntimeError(f"{kind}: {', '.join(map(str, args))}")
            error = ERRORS[kind](*args) if kind in ERRORS else other
            error.add_note(f"{REMOTE} {process}")
            raise error
    return [received for _, received in answers]


def _is_remote(error: BaseException) -> bool:
    return any(note.startswith(REMOTE) for note in getattr(error, "__notes__", []))


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else str(value)


def _try_get(client: Any, key: str) -> str | None:
    """Return the value of a key, or None if it is not set or the service is not reachable."""
    try:
        return client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError:
        return None
