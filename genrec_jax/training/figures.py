"""The figures of a phase: sums stay on the device until a line is written, then become means."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax

from genrec_jax.core.errors import NotFiniteError
from genrec_jax.training.calls import Call
from genrec_jax.training.step import StepMetrics

log = logging.getLogger(__name__)

Write = Callable[[int, str, dict[str, float]], None]  # (step of the run, phase, figures)


@dataclass
class FigureLog:
    """Writes a line every `every` steps, and at validations, of the steps since the last line.

    A call may hold the steps of two lines: each line has its own, whatever the calls.
    """

    phase: str
    steps: int  # of the phase
    first_step: int  # of the run, at the start of the phase
    every: int
    learning_rate: optax.Schedule
    flops: Callable[[int], float]  # of a sequence, by its encoder tokens
    peak: float | None  # operations a second of the device; None: unknown
    write: Write
    written: int = 0  # steps of the phase before the next line
    waiting: list[tuple[int, StepMetrics]] = field(default_factory=list)  # (n, [k] each)

    def __post_init__(self) -> None:
        self.restart_clock()

    def restart_clock(self) -> None:
        """What came before, a validation or a compilation, is not part of the next line's rates."""
        self.clock = time.monotonic()
        self.input_seconds = self.sequences = self.tokens = self.operations = 0.0

    def leave_out(self, seconds: float) -> None:
        """Time that was not training: a compilation."""
        self.clock += seconds

    def add(self, call: Call, metrics: StepMetrics, input_seconds: float) -> None:
        """The metrics of a call, [k], and how long the host took for its input."""
        self.waiting.append((len(call.rows), metrics))
        sequences = call.rows.size  # those that only fill a batch too: they are computed
        self.input_seconds += input_seconds
        self.sequences += int(np.sum(call.rows >= 0))
        self.tokens += sequences * call.bucket.n_tokens
        self.operations += sequences * self.flops(call.bucket.n_tokens)
        if call.stop - self.written >= self.every:
            self.write_line(self.written + self.every)

    def pending(self) -> StepMetrics:
        """The metrics of the steps after the last line, on the host: a checkpoint keeps them.

        Raises:
            NotFiniteError: the loss or the gradient of one of them is not; `args` are (step of
                the phase, what was found).
        """
        fetched = jax.device_get(self.waiting)  # waits for the device
        made = [[column[:steps] for column in metrics] for steps, metrics in fetched]
        columns: list[Any] = [np.concatenate(column) for column in zip(*made, strict=True)]
        metrics = StepMetrics(*columns)
        self.waiting = [(len(metrics.loss_sum), metrics)]
        finite = np.isfinite(metrics.loss_sum) & np.isfinite(metrics.gradient_norm)
        if not finite.all():
            first = int(np.argmin(finite))
            loss = metrics.loss_sum[first] / max(metrics.tokens[first], 1)
            found = f"loss {loss}, gradient norm {metrics.gradient_norm[first]}"
            raise NotFiniteError(self.written + first + 1, found)
        return metrics

    def write_line(self, step: int) -> None:
        """The line of the steps after the last one up to `step`; none if there are none.

        Raises:
            NotFiniteError: see `pending`.
        """
        n = step - self.written
        if n == 0:
            return
        metrics = self.pending()
        seconds = max(time.monotonic() - self.clock, 1e-9)
        of_line = StepMetrics(*(column[:n] for column in metrics))
        after = StepMetrics(*(column[n:] for column in metrics))
        self.waiting = [(len(after.loss_sum), after)]
        self.written = step
        figures = self._means(of_line) | self._rates(seconds)
        figures["learning_rate"] = float(np.asarray(self.learning_rate(step - 1)))
        self.write(self.first_step + step, self.phase, figures)
        log.info(
            "%s step %d/%d: loss %.4f, exact %.4f, %s",
            *(self.phase, step, self.steps, figures["loss"], figures["exact"]),
            self._in_words(figures),
        )
        self.restart_clock()

    def _means(self, metrics: StepMetrics) -> dict[str, Any]:
        total = {name: float(np.sum(x)) for name, x in metrics._asdict().items()}
        return {
            "loss": total["loss_sum"] / max(total["tokens"], 1),
            "exact": total["exact"] / max(total["targets"], 1),
            "gradient_norm": total["gradient_norm"] / len(metrics.gradient_norm),
        }

    def _rates(self, seconds: float) -> dict[str, float]:
        """By the clock. `input_wait` is the host's time for input, whether the device waited or
        not: a bound."""
        rates = {
            "sequences_per_second": self.sequences / seconds,
            "tokens_per_second": self.tokens / seconds,
            "model_flops_per_second": self.operations / seconds,
            "input_wait": self.input_seconds / seconds,
        }
        if self.peak is not None:
            rates["share_of_peak"] = self.operations / seconds / self.peak
        return rates

    def _in_words(self, figures: dict[str, float]) -> str:
        share = figures.get("share_of_peak")
        peak = "peak unknown" if share is None else f"{100 * share:.1f} % of peak"
        return (
            f"{figures['sequences_per_second']:.0f} sequences/s, "
            f"{figures['tokens_per_second']:.0f} tokens/s, "
            f"{figures['model_flops_per_second'] / 1e12:.3f} TFLOP/s ({peak}), "
            f"input wait {100 * figures['input_wait']:.2f} %"
        )
