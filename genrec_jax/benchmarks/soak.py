"""Check that memory and step time stay flat over many training steps.

    python -m genrec_jax benchmark soak                       ten thousand steps, some minutes
    python -m genrec_jax benchmark soak --steps=100000

Trains a tiny model in a temporary folder: both phases, a line of metrics every 50 steps, a
validation every 500 and a checkpoint every 250. For each tenth of the run it prints the median of
the process's resident memory, read twice a second, and the lower quartile of the milliseconds per
step in the lines of metrics, which exclude validations and saves. The exit code is 1 if either
grows by more than --tolerance within a phase. Between the phases memory grows by the second phase's
programs.
"""

import json
import tempfile
import threading
import time
from pathlib import Path
from statistics import median, quantiles
from types import SimpleNamespace

import psutil

from genrec_jax.benchmarks.machine import describe_machine
from genrec_jax.cli.command import Command
from genrec_jax.core.flags import Flag
from genrec_jax.models.genrec.config import Config, GenRecEvaluateConfig, ModelConfig
from genrec_jax.models.run_config import DataConfig, FinetuneConfig, PhaseConfig
from genrec_jax.reporting.run_report import report_run
from genrec_jax.runs.run_folder import RunFolder
from genrec_jax.training.train import train

BATCH = 16
EVERY = 50  # steps between lines of metrics
TENTHS = 10
# The indices of the tenths that are compared; the first tenth of a phase compiles.
PHASES = {"pretraining": (1, 4), "finetuning": (6, 9)}
SECONDS_BETWEEN_READINGS = 0.5
FEWEST_STEPS = 2_000  # so that a tenth has a validation and some lines of metrics


def soak_config(steps: int) -> Config:
    """Return the config: half of the steps in each phase, on 2,000 synthetic users."""
    small = PhaseConfig(
        epochs=steps,  # more than enough: max_steps ends the phase
        max_steps=steps // 2,
        batch_size=BATCH,
        learning_rate=1e-3,
        validate_every_steps=500,
    )
    return Config(
        data=DataConfig(synthetic_users=2000, buckets=1),
        indexing="random",
        model=ModelConfig(
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            attention_heads=2,
            ffn_dim=32,
            vocab_size=128,
            max_tokens=64,
        ),
        pretrain=small,
        finetune=FinetuneConfig(**vars(small)),
        evaluate=GenRecEvaluateConfig(users=200, validation_users=200, batch_size=64),
        log_every_steps=EVERY,
        checkpoint_every_steps=250,
    )


class MemoryGauge:
    """A thread that records the run's logged steps and the memory of the process."""

    def __init__(self, metrics: Path):
        self.readings: list[tuple[int, float]] = []  # (step, resident MiB)
        self._metrics = metrics
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "MemoryGauge":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        memory = psutil.Process()
        while not self._over.wait(SECONDS_BETWEEN_READINGS):
            if self._metrics.is_file() and (lines := self._metrics.read_text().splitlines(True)):
                whole = lines[-1] if lines[-1].endswith("\n") else lines[-2]
                step = json.loads(whole)["step"]
                self.readings.append((step, memory.memory_info().rss / 2**20))


def milliseconds_per_step(metrics: Path) -> list[tuple[int, float]]:
    """Return (step, milliseconds per step) of each line of training metrics."""
    lines = map(json.loads, metrics.read_text().splitlines())
    return [
        (line["step"], 1000 * BATCH / line["sequences_per_second"])
        for line in lines
        if "sequences_per_second" in line
    ]


def tenths(series: list[tuple[int, float]], steps: int) -> list[list[float]]:
    """Split a series of (step, value) into the values of each tenth of the steps."""
    width = steps / TENTHS
    return [
        [value for step, value in series if width * i < step <= width * (i + 1)]
        for i in range(TENTHS)
    ]


def lower_quartile(values: list[float]) -> float:
    """Return the lower quartile, since other work on the machine only increases times."""
    return quantiles(values, n=4)[0]


def soak(steps: int) -> tuple[list[float], list[float]]:
    """Train, and return the MiB and the milliseconds per step in each tenth of the run."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "run")
        with MemoryGauge(folder.metrics) as gauge:
            train(soak_config(steps), folder, report_run)
        memory = [(step, value) for step, value in gauge.readings if step < steps]
        times = milliseconds_per_step(folder.metrics)
        return (
            [median(values) for values in tenths(memory, steps)],
            [lower_quartile(values) for values in tenths(times, steps)],
        )


def run(flags: SimpleNamespace) -> int:
    print(describe_machine(), flush=True)
    started = time.monotonic()
    megabytes, milliseconds = soak(flags.steps)
    print(f"\n{flags.steps} steps in {time.monotonic() - started:.0f} s")
    print("tenth      1      2      3      4      5      6      7      8      9     10")
    print("MiB  " + "".join(f"{value:7.0f}" for value in megabytes))
    print("ms   " + "".join(f"{value:7.2f}" for value in milliseconds))
    failed = False
    for name, values in (("memory", megabytes), ("time per step", milliseconds)):
        for phase, (first, last) in PHASES.items():
            share = values[last] / values[first] - 1
            failed |= share > flags.tolerance
            print(f"{name}, {phase}: {100 * share:+.1f} % from tenth {first + 1} to {last + 1}")
    return int(failed)


main = Command(
    "benchmark soak",
    "[--steps=N] [--tolerance=X]",
    __doc__ or "",
    run,
    (
        Flag("steps", "The steps of both phases together.", int, 10_000, least=FEWEST_STEPS),
        Flag("tolerance", "The largest relative growth of memory and time.", float, 0.1),
    ),
)
