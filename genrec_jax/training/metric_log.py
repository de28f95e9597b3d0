"""The metrics of a phase: sums stay on the device until a log line turns them into means."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax

from genrec_jax.core.errors import NotFiniteError
from genrec_jax.training.dispatches import Dispatch
from genrec_jax.training.step import StepMetrics

log = logging.getLogger(__name__)

Write = Callable[[int, str, dict[str, float]], None]  # (step of the run, phase, metrics)


@dataclass
class MetricLog:
    """Write a line of metrics every `every` steps and before each validation.

    A line covers the steps since the previous line. The steps of one dispatch may belong to two
    lines.
    """

    phase: str
    steps: int  # steps of the phase
    first_step: int  # steps of the run before the phase
    every: int  # steps between two lines
    learning_rate: optax.Schedule
    flops: Callable[[int], float]  # number of encoder tokens → operations of a training sequence
    peak: float | None  # peak operations per second of the device; None: unknown
    write: Write
    written: int = 0  # steps of the phase that lines have reported
    # Metrics of later steps: (number of steps, arrays [k]) of each dispatch.
    pending: list[tuple[int, StepMetrics]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart_clock()

    def restart_clock(self) -> None:
        """Exclude the time until now, such as a validation, from the rates of the next line."""
        self.clock = time.monotonic()
        self.input_seconds = self.sequences = self.tokens = self.operations = 0.0

    def exclude(self, seconds: float) -> None:
        """Exclude time that was not training, such as a compilation, from the rates."""
        self.clock += seconds

    def add(self, dispatch: Dispatch, metrics: StepMetrics, input_seconds: float) -> None:
        """Add the metrics of a dispatch, and write a line if it is due.

        Args:
            dispatch: the steps.
            metrics: the metrics of each step, [k].
            input_seconds: the time that the host took to prepare the input.
        """
        self.pending.append((len(dispatch.rows), metrics))
        sequences = dispatch.rows.size  # includes padding rows, which are computed too
        self.input_seconds += input_seconds
        self.sequences += int(np.sum(dispatch.rows >= 0))
        self.tokens += sequences * dispatch.bucket.n_tokens
        self.operations += sequences * self.flops(dispatch.bucket.n_tokens)
        if dispatch.stop - self.written >= self.every:
            self.write_line(self.written + self.every)

    def fetch_pending(self) -> StepMetrics:
        """Fetch the metrics of the steps after the last line; a checkpoint stores them.

        Raises:
            NotFiniteError: the loss or the gradient norm of a step is not finite; `args` are (step
                of the phase, description of the values).
        """
        fetched = jax.device_get(self.pending)  # waits for the device
        by_dispatch = [[column[:steps] for column in metrics] for steps, metrics in fetched]
        columns: list[Any] = [np.concatenate(column) for column in zip(*by_dispatch, strict=True)]
        metrics = StepMetrics(*columns)
        self.pending = [(len(metrics.loss_sum), metrics)]
        finite = np.isfinite(metrics.loss_sum) & np.isfinite(metrics.gradient_norm)
        if not finite.all():
            first = int(np.argmin(finite))
            loss = metrics.loss_sum[first] / max(metrics.tokens[first], 1)
            values = f"loss {loss}, gradient norm {metrics.gradient_norm[first]}"
            raise NotFiniteError(self.written + first + 1, values)
        return metrics

    def write_line(self, step: int) -> None:
        """Write the line of all steps up to `step` that no line has reported yet, if any.

        Raises:
            NotFiniteError: the loss or the gradient norm of a step is not finite.
        """
        n = step - self.written
        if n == 0:
            return
        metrics = self.fetch_pending()
        seconds = max(time.monotonic() - self.clock, 1e-9)
        of_line = StepMetrics(*(column[:n] for column in metrics))
        after = StepMetrics(*(column[n:] for column in metrics))
        self.pending = [(len(after.loss_sum), after)]
        self.written = step
        values = self._means(of_line) | self._rates(seconds)
        values["learning_rate"] = float(np.asarray(self.learning_rate(step - 1)))
        self.write(self.first_step + step, self.phase, values)
        log.info(
            "%s step %d/%d: loss %.4f, exact %.4f, %s",
            *(self.phase, step, self.steps, values["loss"], values["exact"]),
            _format_rates(values),
        )
        self.restart_clock()

    def _means(self, metrics: StepMetrics) -> dict[str, Any]:
        """Return the means of the steps' metrics: loss per prediction, share of exact targets."""
        total = {name: float(np.sum(x)) for name, x in metrics._asdict().items()}
        return {
            "loss": total["loss_sum"] / max(total["tokens"], 1),
            "exact": total["exact"] / max(total["targets"], 1),
            "gradient_norm": total["gradient_norm"] / len(metrics.gradient_norm),
        }

    def _rates(self, seconds: float) -> dict[str, float]:
        """Return the rates over `seconds` of training.

        `input_wait` is the share of time in which the host prepared input. It is an upper bound on
        the share in which the device waited for input.
        """
        rates = {
            "sequences_per_second": self.sequences / seconds,
            "tokens_per_second": self.tokens / seconds,
            "model_flops_per_second": self.operations / seconds,
            "input_wait": self.input_seconds / seconds,
        }
        if self.peak is not None:
            rates["share_of_peak"] = self.operations / seconds / self.peak
        return rates


def _format_rates(values: dict[str, float]) -> str:
    """Return the rates as text for the log."""
    share = values.get("share_of_peak")
    peak = "peak unknown" if share is None else f"{100 * share:.1f} % of peak"
    return (
        f"{values['sequences_per_second']:.0f} sequences/s, "
        f"{values['tokens_per_second']:.0f} tokens/s, "
        f"{values['model_flops_per_second'] / 1e12:.3f} TFLOP/s ({peak}), "
        f"input wait {100 * values['input_wait']:.2f} %"
    )
