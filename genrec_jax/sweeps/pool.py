"""Run trials in parallel worker processes, which can be pruned, stopped and resumed.

On a CPU, each worker gets an equal share of the cores; on a GPU, an equal share of the memory. A
signal to the sweep is forwarded to all trials, which save a checkpoint and exit.
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

POLL_SECONDS = 0.2  # between two checks of the running trials
GPU_MEMORY = 0.9  # share of the device's memory that all workers use together
# Exit codes of a stopped trial; negative if the signal came before its handlers were installed.
STOP_CODES = (CODES[Stopped], 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGINT)
STOPPED = "stopped, resumable"  # the state of a stopped trial in logs and tables


@dataclass(frozen=True)
class TrialResult:
    """How one attempt to run a trial ended."""

    trial: Trial
    code: int  # exit code of the last command that ran
    reason: str  # error message of that command; "" if it succeeded
    seconds: float  # wall time of this attempt
    pruned: bool  # whether the sweep stopped the trial because its scores are too low

    @property
    def stopped(self) -> bool:
        """Whether a signal stopped the trial; rerunning the sweep resumes it."""
        return self.code in STOP_CODES and not self.pruned


@runtime_checkable
class Source(Protocol):
    """A supply of trials that also records their results."""

    def next(self) -> Trial | None:
        """Return the next trial to run; None if there are no more."""
        ...

    def should_prune(self, trial: Trial) -> bool:
        """Return whether to stop a running trial early; called every POLL_SECONDS."""
        ...

    def record(self, result: TrialResult) -> None:
        """Record the result of a trial that has ended."""
        ...


@dataclass
class Worker:
    """A worker, which runs one trial at a time in a subprocess."""

    number: int
    cores: set[int]  # CPU cores of the worker; empty: no restriction
    logs: Path  # folder of the console output
    workers: int  # number of all workers
    trial: Trial | None = None  # the current trial; None if the worker is idle
    process: subprocess.Popen[bytes] | None = None
    commands: list[list[str]] = field(default_factory=list)  # remaining commands of the trial
    started: float = 0.0  # monotonic time in seconds
    pruned: bool = False
    stopping: bool = False
    output: IO[bytes] | None = None  # the console output of the current trial

    def start(self, trial: Trial) -> None:
        """Start the first command of a trial.

        Raises:
            DiskError: the log file cannot be opened.
        """
        self.trial, self.commands = trial, trial.commands
        self.pruned = self.stopping = False
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
            # Ctrl-C signals the terminal's whole process group. The worker forwards the signal
            # once instead, since a second one would end the trial without a checkpoint.
            process_group=0,
        )
        with contextlib.suppress(ProcessLookupError, AttributeError):  # has ended; on macOS
            os.sched_setaffinity(self.process.pid, self.cores)

    def stop(self) -> None:
        """Ask the trial to save a checkpoint and exit."""
        self.stopping = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def poll(self) -> TrialResult | None:
        """Return the trial's result if it has ended, else None; start its next command if any."""
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
            code = STOP_CODES[0]  # stopped between two commands
        self.output.close()
        reason = "" if code == 0 else _reason(code, Path(self.output.name))
        seconds = time.monotonic() - self.started
        result = TrialResult(self.trial, code, reason, seconds, self.pruned)
        self.trial = self.process = self.output = None
        return result


def run_all(
    source: Source,
    n_workers: int,
    logs: Path,
    stop: StopRequest,
    on_result: Callable[[TrialResult], None],
) -> None:
    """Run all trials of a source in parallel.

    Args:
        source: supplies the trials and records their results.
        n_workers: the number of trials that run at the same time.
        logs: the folder for the console output of each trial, `NAME.txt`.
        stop: reports whether the sweep received a signal.
        on_result: called with each result after `source.record`.

    Raises:
        Stopped: the sweep received a signal; all trials have saved a checkpoint and exited.
        DiskError: a log file cannot be opened.
    """
    with writing(logs):
        logs.mkdir(exist_ok=True)
    workers = [
        Worker(number, cores, logs, n_workers)
        for number, cores in enumerate(_split_cores(n_workers))
    ]
    try:
        while not stop.is_due():
            for worker in workers:
                if worker.trial is None and (trial := source.next()) is not None:
                    worker.start(trial)
            if all(worker.trial is None for worker in workers):
                return
            time.sleep(POLL_SECONDS)
            for result in _poll(workers):
                source.record(result)
                on_result(result)
            for worker in workers:
                if worker.trial and not worker.pruned and source.should_prune(worker.trial):
                    worker.pruned = True
                    worker.stop()
    finally:
        for worker in workers:
            worker.stop()
        while any(worker.trial is not None for worker in workers):
            time.sleep(POLL_SECONDS)
            for result in _poll(workers):
                source.record(result)
                on_result(result)
    stop.check()


def _poll(workers: list[Worker]) -> Iterator[TrialResult]:
    """Yield the results of the trials that have ended since the last poll."""
    for worker in workers:
        if worker.trial is not None and (result := worker.poll()) is not None:
            yield result


def _split_cores(workers: int) -> list[set[int]]:
    """Divide the available CPU cores between workers, which share cores if there are too few.

    Returns:
        One set of core numbers per worker; empty where core affinity is not supported.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(workers)]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < workers:
        return [{cores[number % len(cores)]} for number in range(workers)]
    return [set(cores[number::workers]) for number in range(workers)]


def _reason(code: int, path: Path) -> str:
    """Return why a command failed: the signal that ended it, or the last line of its output.

    Args:
        code: the exit code, negative for a signal.
        path: the file with the command's output.
    """
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = path.read_text(errors="replace").strip().splitlines() or [f"exit code {code}"]
    # JAX appends a note to tracebacks, so the error may not be the last line.
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return errors[-1] if code == 1 and errors else lines[-1]
