"""Several processes that are one run: how they start, who writes, how they stay together.

Every process runs the same program on the same inputs, and the first alone writes files and
speaks. What one process finds out for itself (a lock that is taken, a full disk, a signal, the
time) it tells the others through JAX's coordination service, from host to host: no device takes
part, and no training step waits for it. So all go on or leave together, with the same line and the
same exit code. With one process all of this is nothing.

`once`, `together`, `everywhere` and `Agreement.reached` must come in the same order in every
process.
"""

import atexit
import itertools
import json
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
from jax._src import distributed  # the client of the service has no public name

from genrec_jax.core.errors import DiskError, InputError, NotFiniteError, Stopped

T = TypeVar("T")
P = ParamSpec("P")

SECONDS_BETWEEN_LOOKS = 1.0  # at whether another process has asked
SECONDS_BETWEEN_ANSWERS = 0.05  # at what the others tell, when one has
# Long enough for a host that reads a large dataset. A process that died is not waited for: its
# heartbeat is missing, and JAX ends the others.
LONGEST_WAIT = 24 * 3600 * 1000  # milliseconds
LONGEST_GOODBYE = 20  # seconds that a process which leaves waits for the others

ERRORS = {kind.__name__: kind for kind in (InputError, DiskError, NotFiniteError, OSError)}
TOLD = "told by process"  # a note on the error
_rounds = itertools.count()
_agreements = itertools.count()


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Become one of several processes; before any device is touched.

    CPUs then exchange arrays by gloo, GPUs by NCCL.

    Args:
        coordinator: HOST:PORT where the first process listens. With None for all three they are
            what SLURM or Open MPI says, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
            JAX_PROCESS_ID.
        processes: how many there are.
        process: which one this is, from 0.

    Raises:
        InputError: that cannot be found out, or not all of them came.
    """
    jax.config.update("jax_enable_preemption_service", False)  # signals.py heeds SIGTERM
    flag = "--distributed" if coordinator is None else f"--coordinator={coordinator}"
    try:
        jax.distributed.initialize(
            coordinator, processes, process, shutdown_timeout_seconds=LONGEST_GOODBYE
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{flag}: the processes did not come together: {reason}") from None


def check_same(text: str, name: str) -> None:
    """Raise InputError, everywhere, if the processes do not have the same `name`."""
    firsts = once(lambda: text)

    def check() -> None:
        if text != firsts:
            raise InputError(
                f"--process={distributed.global_state.process_id}: found another {name} than that "
                "of process 0, expected the same flags for all"
            )

    together(check)


def is_to_be_told(error: BaseException) -> bool:
    """Whether this process is to say why it leaves: the first, and the one that found the fault."""
    return is_first() or not (isinstance(error, Stopped | NotFiniteError) or _is_told(error))


def count() -> int:
    return distributed.global_state.num_processes or 1


def is_first() -> bool:
    """Whether this process is the one that writes. Touches no device."""
    return not distributed.global_state.process_id


def together(work: Callable[[], T]) -> T:
    """What `work` gives here, when it is through in every process.

    Raises:
        Exception: in all of them, the one of the first process where it failed.
    """
    if count() == 1 or _here.is_alone:
        return work()
    outcome = _attempt(work)
    _exchange(outcome, None)
    return outcome.result


def once(work: Callable[[], T]) -> T:
    """What `work` gives in the first process, where alone it runs. JSON, to go to the others.

    Raises:
        Exception: in all of them, the one that it raised.
    """
    if count() == 1 or _here.is_alone:
        return work()
    outcome = _Outcome()
    if is_first():
        _here.is_alone = True
        outcome = _attempt(work)
        _here.is_alone = False
    return _exchange(outcome, outcome.result)[0]


def everywhere(value: Any) -> list[Any]:
    """Gather a JSON value from every process, in the order of the processes."""
    return [value] if count() == 1 else _exchange(_Outcome(), value)


def by_the_first(work: Callable[P, T]) -> Callable[P, T]:
    """A function or method that runs `once`."""

    @wraps(work)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        return once(lambda: work(*args, **kwargs))

    return wrapped


class _Here(threading.local):
    """Whether this thread is in the `work` of `once`, where the others do not come along."""

    is_alone = False


_here = _Here()


class Agreement:
    """Something that one process may ask for at any time, and all do at the same place.

    They count the places where it can be done. When one has asked, each tells at which place it
    could do so at the earliest, goes no further than that, and when all have told, the latest is
    the one. The threads tell, not the places: a process whose devices wait for another's would
    never get to its own. They answer until Python ends: another may still be on its way.
    """

    def __init__(self) -> None:
        self._name = f"agreement {next(_agreements)}"
        self._turn = 0
        self._places = 0
        self._asked: str | None = None  # here
        self._limit: int | None = None  # no further than this, until `_agreed` is there
        self._agreed: tuple[int, str] | None = None  # (place, what was asked for)
        self._changed = threading.Condition()
        self._ending = threading.Event()
        if count() > 1:
            self._thread = threading.Thread(target=self._listen, name=self._name, daemon=True)
            self._thread.start()
            # A thread that is still in a call of the service when Python ends, aborts the process.
            # Registered after JAX's own goodbye to the service, this runs before it.
            atexit.register(self._stop_listening)

    def ask(self, what: str = "") -> None:
        """From any thread. Asking again changes nothing."""
        with self._changed:
            self._asked = what if self._asked is None else self._asked

    def reached(self) -> str | None:
        """At such a place: what was asked for, if this is the one to do it at; else None."""
        if count() == 1:
            return self._asked
        with self._changed:
            self._places += 1
            while self._places == self._limit and self._agreed is None:
                self._changed.wait()
            if self._agreed is None or self._places < self._agreed[0]:
                return None
            return self._agreed[1]

    def asked_anywhere(self) -> str | None:
        """What some process asked for and none has done, or None; all processes call it at the end.

        Without it, a request would be lost that comes after the last place where it can be met.
        """
        return next((what for what in everywhere(self._asked) if what is not None), None)

    def start_over(self) -> None:
        """It was done, and may be asked for again."""
        with self._changed:
            self._asked = self._limit = self._agreed = None
            self._turn += 1

    # ------------------------------------------------------------------ in the thread

    def _listen(self) -> None:
        client: Any = distributed.global_state.client
        while not self._ending.wait(SECONDS_BETWEEN_LOOKS):
            with self._changed:
                turn, is_settled, asked = self._turn, self._limit is not None, self._asked
            if is_settled:
                continue
            key = f"genrec_jax/{self._name}/{turn}"
            what = _look(client, f"{key}/asked") if asked is None else asked
            if what is None:
                continue
            with self._changed:
                self._limit = self._places + 1
            client.key_value_set(f"{key}/asked", what, allow_overwrite=True)
            client.key_value_set(f"{key}/{distributed.global_state.process_id}", str(self._limit))
            told = [self._wait_for(client, f"{key}/{process}") for process in range(count())]
            what = self._wait_for(client, f"{key}/asked")
            if what is None or None in told:
                return
            with self._changed:
                self._agreed = max(int(place) for place in told if place is not None), what
                self._changed.notify_all()

    def _wait_for(self, client: Any, key: str) -> str | None:
        """The value of a key once it is there; None if this process ends before."""
        while (value := _look(client, key)) is None:
            if self._ending.wait(SECONDS_BETWEEN_ANSWERS):
                return None
        return value

    def _stop_listening(self) -> None:
        self._ending.set()
        self._thread.join(LONGEST_GOODBYE)


class _Outcome:
    """What came of some work: a result or a failure."""

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
    """The results of all processes; raises the failure of the first that has one."""
    client: Any = distributed.global_state.client
    own, turn = distributed.global_state.process_id, next(_rounds)
    failure = outcome.failure
    told = None if failure is None else [type(failure).__name__, *map(_plain, failure.args)]
    key = f"genrec_jax/exchange/{turn}"
    client.key_value_set(f"{key}/{own}", json.dumps([told, result if told is None else None]))
    answers = [
        json.loads(client.blocking_key_value_get(f"{key}/{process}", LONGEST_WAIT))
        for process in range(count())
    ]
    if turn:  # everyone has read the round before
        client.key_value_delete(f"genrec_jax/exchange/{turn - 1}/{own}")
    for process, (theirs, _) in enumerate(answers):
        if theirs is not None and process == own and failure is not None:
            raise failure
        if theirs is not None:
            kind, *args = theirs
            other = RuntimeError(f"{kind}: {', '.join(map(str, args))}")
            error = ERRORS[kind](*args) if kind in ERRORS else other
            error.add_note(f"{TOLD} {process}")
            raise error
    return [found for _, found in answers]


def _is_told(error: BaseException) -> bool:
    return any(note.startswith(TOLD) for note in getattr(error, "__notes__", []))


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str) else str(value)


def _look(client: Any, key: str) -> str | None:
    """The value of a key, None where it is not there (yet, or the service any more)."""
    try:
        return client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError:
        return None
