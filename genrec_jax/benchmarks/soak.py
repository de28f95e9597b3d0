"""Many steps of a tiny model, as training makes them: is memory flat, does it slow down?

    python -m genrec_jax benchmark soak                       ten thousand steps, some minutes
    python -m genrec_jax benchmark soak --steps=100000

A whole run in a folder of its own that goes again: both phases, a line of figures every 50 steps,
a validation every 500 and a checkpoint every 250. Printed are, for each tenth of the run, the
median of the resident memory of the process, read twice a second, and the lower quartile of the
milliseconds a step, by the lines of figures, which leave validations and saves out. Leaves with
exit code 1 if either grew by more than --tolerance within a phase; between the two, memory grows
by the programs of the second.
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
EVERY = 50  # steps a line
TENTHS = 10
# The tenths that are compared, by place: the first one of a phase compiles.
PHASES = {"pretraining": (1, 4), "finetuning": (6, 9)}
SECONDS_BETWEEN_READINGS = 0.5
FEWEST_STEPS = 2_000  # a tenth must hold a validation and some lines of figures


def soak_config(steps: int) -> Config:
    """Half of the steps in each phase, on 2,000 synthetic users."""
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
    """Reads, beside training, how many steps the run has written and the memory of the process."""

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


def milliseconds_a_step(metrics: Path) -> list[tuple[int, float]]:
    """(step, milliseconds) of each line of training figures; lines leave validations out."""
    lines = map(json.loads, metrics.read_text().splitlines())
    return [
        (line["step"], 1000 * BATCH / line["sequences_per_second"])
        for line in lines
        if "sequences_per_second" in line
    ]


def tenths(series: list[tuple[int, float]], steps: int) -> list[list[float]]:
    """The values of each tenth of the steps."""
    width = steps / TENTHS
    return [
        [value for step, value in series if width * i < step <= width * (i + 1)]
        for i in range(TENTHS)
    ]


def lower_quartile(values: list[float]) -> float:
    """Of times: what else runs on the machine only adds to them."""
    return quantiles(values, n=4)[0]


def soak(steps: int) -> tuple[list[float], list[float]]:
    """MiB and milliseconds a step in each tenth of a run."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "run")
        with MemoryGauge(folder.metrics) as gauge:
            train(soak_config(steps), folder, report_run)
        memory = [(step, value) for step, value in gauge.readings if step < steps]
        times = milliseconds_a_step(folder.metrics)
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
    for name, values in (("memory", megabytes), ("time a step", milliseconds)):
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
        Flag("steps", "Steps of both phases together.", int, 10_000, least=FEWEST_STEPS),
        Flag("tolerance", "The largest share by which memory and time may grow.", float, 0.1),
    ),
)
