"""Some trials side by side, each a process of its own that can be cut and goes on.

On a CPU each worker has its share of the cores, on a GPU its share of the memory. A signal is
handed on to all: each saves and leaves, as it would alone.
"""

import contextlib
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from genrec_jax.core.disk import writing
from genrec_jax.core.endings import CODES
from genrec_jax.core.errors import Stopped
from genrec_jax.core.signals import StopRequest
from genrec_jax.sweeps.trials import Trial

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.2
GPU_MEMORY = 0.9  # of the device, over all workers
# What a trial leaves with that was asked to stop; the negative ones before it listens to signals.
STOPPED = (CODES[Stopped], 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGINT)


@dataclass(frozen=True)
class Ended:
    """How a trial ended, for now."""

    trial: Trial
    code: int  # of the command that was the last to run
    reason: str  # its last line of errors, or ""
    seconds: float  # by the clock on the wall, of this attempt
    cut: bool  # by the sweep, as hopeless

    @property
    def stopped(self) -> bool:
        """By a signal: the same command goes on with it."""
        return self.code in STOPPED and not self.cut


@runtime_checkable
class Source(Protocol):
    """Where trials come from and what becomes of them."""

    def next(self) -> Trial | None:
        """The next one to run; None when there is none more."""
        ...

    def is_hopeless(self, trial: Trial) -> bool:
        """Asked now and then while the trial runs; True cuts it."""
        ...

    def ended(self, end: Ended) -> None:
        """The trial is not running any more."""
        ...


@dataclass
class Worker:
    """A place for one trial, and the trial in it."""

    number: int
    cores: set[int]
    logs: Path
    workers: int
    trial: Trial | None = None
    process: subprocess.Popen[bytes] | None = None
    commands: list[list[str]] = field(default_factory=list)
    started: float = 0.0
    cut: bool = False
    stopping: bool = False
    output: IO[bytes] | None = None

    def start(self, trial: Trial) -> None:
        self.trial, self.commands = trial, trial.commands
        self.cut = self.stopping = False
        self.started = time.monotonic()
        path = self.logs / f"{trial.name}.txt"
        with writing(path):
            self.output = path.open("ab")
        self._start_command()

    def _start_command(self) -> None:
        environment = dict(os.environ)
        if self.workers > 1:
            environment.setdefault(
                "XLA_PYTHON_CLIENT_MEMORY_FRACTION", f"{GPU_MEMORY / self.workers:.3f}"
            )
        self.process = subprocess.Popen(
            self.commands.pop(0),
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C reaches a terminal's whole group. The trials hear of it from here, once: a
            # second signal would end them without a checkpoint.
            process_group=0,
        )
        with contextlib.suppress(ProcessLookupError, AttributeError):  # it is over; not on macOS
            os.sched_setaffinity(self.process.pid, self.cores)

    def stop(self) -> None:
        self.stopping = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def poll(self) -> Ended | None:
        """How the trial ended, once it has."""
        assert self.process is not None
        assert self.trial is not None
        assert self.output is not None
        code = self.process.poll()
        if code is None:
            return None
        if code == 0 and self.commands:
            if not self.stopping:
                self._start_command()
                return None
            code = STOPPED[0]  # between two of its commands
        self.output.close()
        reason = "" if code == 0 else _reason(code, Path(self.output.name))
        end = Ended(self.trial, code, reason, time.monotonic() - self.started, self.cut)
        self.trial = self.process = self.output = None
        return end


def run_all(
    source: Source,
    workers: int,
    logs: Path,
    stop: StopRequest,
    tell: Callable[[Ended], None],
) -> None:
    """Run what the source gives until it has none more.

    Args:
        source: of trials.
        workers: how many run side by side.
        logs: folder where each trial's console goes to, `NAME.txt`.
        stop: was the sweep asked to stop?
        tell: is called for each that ended, after the source was.

    Raises:
        Stopped: by a signal, when all trials have saved and left.
    """
    with writing(logs):
        logs.mkdir(exist_ok=True)
    crew = [
        Worker(number, cores, logs, workers)
        for number, cores in enumerate(_shares_of_cores(workers))
    ]
    try:
        while not stop.is_due():
            for worker in crew:
                if worker.trial is None and (trial := source.next()) is not None:
                    worker.start(trial)
            if all(worker.trial is None for worker in crew):
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for end in _over(crew):
                source.ended(end)
                tell(end)
            for worker in crew:
                if worker.trial and not worker.cut and source.is_hopeless(worker.trial):
                    worker.cut = True
                    worker.stop()
    finally:
        for worker in crew:
            worker.stop()
        while any(worker.trial is not None for worker in crew):
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for end in _over(crew):
                source.ended(end)
                tell(end)
    stop.heed()


def _over(crew: list[Worker]) -> Iterator[Ended]:
    for worker in crew:
        if worker.trial is not None and (end := worker.poll()) is not None:
            yield end


def _shares_of_cores(workers: int) -> list[set[int]]:
    """The cores that this process may use, dealt out; with fewer cores than workers, shared."""
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(workers)]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < workers:
        return [{cores[number % len(cores)]} for number in range(workers)]
    return [set(cores[number::workers]) for number in range(workers)]


def _reason(code: int, path: Path) -> str:
    """Why a trial ended with this code: the signal that it got, or what its console says last."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = path.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
    # JAX puts a note of its own under the error of a traceback.
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return errors[-1] if code == 1 and errors else lines[-1]
