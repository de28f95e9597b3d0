"""One phase of a run, pretraining or finetuning: steps, metrics, checkpoints, validation.

A checkpoint is saved before every validation, at the configured intervals, and when the process is
requested to stop. It stores the pending metrics of the steps that no line of metrics.jsonl reports
yet, so an interrupted run writes the same lines as an uninterrupted one. A validation that was
interrupted is repeated.
"""

import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genrec_jax.core.errors import NotFiniteError
from genrec_jax.core.processes import Agreement, is_process_0
from genrec_jax.core.progress import track, track_steps
from genrec_jax.core.signals import StopRequest
from genrec_jax.data.batches import BatchPlan
from genrec_jax.data.sequences import (
    Examples,
    UserSequences,
    next_item_examples,
    prefix_examples,
    pretraining_examples,
)
from genrec_jax.decoding.ranker import Ranker
from genrec_jax.evaluation.evaluate import split_examples
from genrec_jax.evaluation.metrics import metrics
from genrec_jax.identifiers.input_lengths import InputLengths, plan_batches
from genrec_jax.models import load_family
from genrec_jax.models.contract import Objective, Params
from genrec_jax.models.run_config import FinetuneConfig, PhaseConfig, RunConfig
from genrec_jax.runs.checkpoint import Checkpoints
from genrec_jax.runs.model import ModelSetup
from genrec_jax.runs.run_folder import METRIC, VALIDATION, MetricsWriter
from genrec_jax.runs.train_state import TrainState
from genrec_jax.training.dispatches import Dispatch, plan_dispatches
from genrec_jax.training.flops import device_peak
from genrec_jax.training.metric_log import MetricLog
from genrec_jax.training.multi_step import MultiStepTrainer, Rows, put_examples
from genrec_jax.training.optimizer import OptimizerSpec, learning_rate_schedule, make_optimizer
from genrec_jax.training.step import StepMetrics, make_step, root_key, start_state
from genrec_jax.training.trace import TraceWindow

log = logging.getLogger(__name__)

NAMED_USERS = 16  # most users that the message about a non-finite loss or gradient names


@dataclass(frozen=True)
class Phase:
    """Pretraining or finetuning, with its batches and its length."""

    name: str
    objective: Objective
    config: PhaseConfig
    plan: BatchPlan
    steps: int
    first_step: int  # steps of the run before the phase
    selects: bool  # whether its validations choose the best checkpoint

    @property
    def validation_steps(self) -> int:
        """The steps between validations. The phase also ends with a validation."""
        steps = self.config.validate_every_steps
        return steps or self.config.validate_every_epochs * self.plan.steps_per_epoch or self.steps


def make_phases(
    config: RunConfig, sequences: UserSequences, lengths: InputLengths
) -> Iterator[Phase]:
    """Yield the phases that have epochs, pretraining before finetuning.

    Args:
        config: the run's config.
        sequences: the dataset.
        lengths: the encoder positions that histories take.
    """
    first_step = 0
    finetuning = finetuning_examples(sequences, config.finetune)
    tasks: dict[str, tuple[Objective, Examples]] = {
        "pretrain": ("random_item", pretraining_examples(sequences)),
        "finetune": (finetuning_objective(config), finetuning),
    }
    for name, phase in config.phases().items():
        if phase.epochs == 0:
            continue
        objective, examples = tasks[name]
        plan = plan_batches(
            examples,
            lengths,
            phase.batch_size,
            config.data.buckets,
            name,
        )
        steps = phase.epochs * plan.steps_per_epoch
        steps = min(steps, phase.max_steps) if phase.max_steps else steps
        selects = name == "finetune" or config.finetune.epochs == 0
        yield Phase(name, objective, phase, plan, steps, first_step, selects)
        first_step += steps


def finetuning_examples(sequences: UserSequences, finetune: FinetuneConfig) -> Examples:
    """Return the finetuning examples.

    The target is the last item of each user's training part or, with prefix augmentation, every
    item of it.
    """
    split = prefix_examples if finetune.uses_prefixes else next_item_examples
    return split(sequences, finetune.n_excluded)


def finetuning_objective(config: RunConfig) -> Objective:
    """Return the objective of finetuning."""
    return load_family(config.model.family).objective(config)


def last_objective(config: RunConfig) -> Objective:
    """Return the objective of the last phase with epochs, by which the trained model ranks."""
    return finetuning_objective(config) if config.finetune.epochs else "random_item"


@dataclass(frozen=True)
class Progress:
    """The progress of a run, stored with every checkpoint."""

    step: int = 0  # steps of the run
    best_step: int | None = None  # step of the best validation so far
    best_score: float = -1.0  # its metric
    seconds: float = 0.0  # time of training and validation so far
    validation_due: bool = False  # the validation of `step` is not complete
    objective: Objective = "random_item"  # objective of the current phase
    # The StepMetrics of the steps that no line of metrics.jsonl reports yet.
    pending: dict[str, list[float]] = field(default_factory=dict)


class PhaseRunner:
    """Run one phase: train, write metrics, save checkpoints and validate."""

    def __init__(
        self,
        config: RunConfig,
        phase: Phase,
        setup: ModelSetup,
        sequences: UserSequences,
        ranker: Ranker,
        checkpoints: Checkpoints,
        writer: MetricsWriter,
        stop: StopRequest,
    ):
        """Build the optimizer and the step, and put the phase's examples on the devices.

        Args:
            config: the run's config.
            phase: the phase to run.
            setup: the model and its catalogue.
            sequences: the dataset.
            ranker: ranks for validation; its devices and tables are also used for training.
            checkpoints: the run's checkpoints.
            writer: writes metrics.jsonl.
            stop: the request to stop the process.
        """
        self.config = config
        self.phase = phase
        self.setup = setup
        self.ranker = ranker
        self.checkpoints = checkpoints
        self.writer = writer
        self.stop = stop
        examples = split_examples(config, sequences, "validation")
        self.validation = ranker.plan(examples, VALIDATION)
        spec = OptimizerSpec(
            steps=phase.steps,
            learning_rate=phase.config.learning_rate,
            weight_decay=phase.config.weight_decay,
            warmup=phase.config.warmup,
            clip_norm=phase.config.clip_norm,
            first_moment=phase.config.first_moment,
        )
        self.learning_rate = learning_rate_schedule(spec)
        self.optimizer = make_optimizer(spec)
        self.devices = ranker.devices
        graph, like = setup.graph_and_like
        self.like = self.devices.like(like)
        step = make_step(
            graph,
            self.optimizer,
            phase.objective,
            phase.config.accumulate,
            config.rematerialise,
        )
        examples = self.devices.replicate(put_examples(phase.plan.examples))
        root = self.devices.replicate(root_key(config.seed, phase.objective))
        steps_per_dispatch = min(config.steps_per_dispatch, config.log_every_steps)
        self.trainer = MultiStepTrainer(
            step, ranker.tables, examples, root, steps_per_dispatch, phase.name, self.devices
        )
        self.save_request = Agreement()
        self.flops = setup.sequence_flops(phase.objective)

    def run(
        self, params: Params | None, progress: Progress, traces: Path | None
    ) -> tuple[Params | None, Progress]:
        """Train from the run's progress to the end of the phase.

        Args:
            params: the parameters at the start of the phase; None: restore the checkpoint that
                `progress` belongs to.
            progress: the run's progress.
            traces: the folder for profiler traces, or None.

        Returns:
            The parameters after the phase (`params` if the phase was complete) and the progress.

        Raises:
            Stopped: the process was requested to stop; a checkpoint of the last step is being
                saved.
            NotFiniteError: the loss, a gradient or the parameters are not finite; they are not
                saved.
        """
        done = progress.step - self.phase.first_step  # steps of the phase
        if done > self.phase.steps or (done == self.phase.steps and not progress.validation_due):
            return params, progress
        state = self._restore(progress) if params is None else self._start(params)
        self.progress = progress
        self.started = time.monotonic() - progress.seconds
        try:
            if progress.validation_due:
                self._validate(state.params)
            state = self._train(
                state, done, TraceWindow(traces / self.phase.name if traces else None)
            )
        except NotFiniteError as error:
            raise NotFiniteError(self._describe(error)) from None
        return state.params, self.progress

    def _train(self, state: TrainState, done: int, trace: TraceWindow) -> TrainState:
        """Train from step `done` of the phase to its end."""
        phase, trainer = self.phase, self.trainer
        metric_log = self._metric_log(done)
        self.stop.check()
        self.saved_at = time.monotonic()
        with track_steps(phase.name, phase.steps, done) as watch:
            for dispatch, rows, input_seconds in self._inputs(done):
                compiled_before = trainer.compile_seconds
                trainer.program(state, dispatch)
                metric_log.exclude(trainer.compile_seconds - compiled_before)
                trace.before()
                state, metrics = trainer.run(state, dispatch, rows)
                end = dispatch.stop
                metric_log.exclude(trace.after(metrics, last=end == phase.steps))
                metric_log.add(dispatch, metrics, input_seconds)
                watch(len(dispatch.rows))
                validates = end % phase.validation_steps == 0 or end == phase.steps
                if validates:
                    metric_log.write_line(end)
                if validates or self.stop.is_due() or self._is_save_due(dispatch):
                    metric_log.exclude(self._save(state, end, metric_log, validates))
                    self.stop.check()
                if validates:
                    self._validate(state.params)
                    metric_log.restart_clock()
        return state

    def _inputs(self, done: int) -> Iterator[tuple[Dispatch, Rows, float]]:
        """Yield each dispatch, its rows on the device, and the seconds that preparing it took."""
        phase, config = self.phase, self.config
        most, border = self.trainer.steps_per_dispatch, phase.validation_steps
        started = time.monotonic()
        for dispatch in plan_dispatches(phase.plan, config.seed, done, phase.steps, most, border):
            rows = self.trainer.put(dispatch)
            yield dispatch, rows, time.monotonic() - started
            started = time.monotonic()

    def _metric_log(self, done: int) -> MetricLog:
        """Return the metric log, with the pending metrics that the checkpoint stored."""
        pending = _metrics_of(self.progress.pending)
        n = len(pending.loss_sum)
        return MetricLog(
            phase=self.phase.name,
            steps=self.phase.steps,
            first_step=self.phase.first_step,
            every=self.config.log_every_steps,
            learning_rate=self.learning_rate,
            flops=self.flops,
            peak=device_peak(self.setup.shape.dtype),
            write=self.writer.write,
            written=done - n,
            pending=[(n, pending)],
        )

    # ------------------------------------------------------------------ checkpoints

    def _is_save_due(self, dispatch: Dispatch) -> bool:
        """Return whether a checkpoint is due after a dispatch, by steps or by minutes."""
        steps, minutes = self.config.checkpoint_every_steps, self.config.checkpoint_every_minutes
        first = self.phase.first_step
        if steps and (first + dispatch.stop) // steps > (first + dispatch.start) // steps:
            return True
        # By the clock of process 0, so that all processes save at the same step.
        if minutes and is_process_0() and time.monotonic() - self.saved_at >= 60 * minutes:
            self.save_request.request()
        if self.save_request.poll() is None:
            return False
        self.save_request.reset()
        return True

    def _save(self, state: TrainState, done: int, metric_log: MetricLog, validates: bool) -> float:
        """Start to save a checkpoint; return the seconds that training waited."""
        started = time.monotonic()
        pending = metric_log.fetch_pending()._asdict()
        self.progress = dataclasses.replace(
            self.progress,
            step=self.phase.first_step + done,
            seconds=started - self.started,
            validation_due=validates,
            objective=self.phase.objective,
            pending={name: column.tolist() for name, column in pending.items()},
        )
        self.checkpoints.save(self.progress.step, state, vars(self.progress))
        self.saved_at = time.monotonic()
        return self.saved_at - started

    def _start(self, params: Params) -> TrainState:
        """Return the state at the first step of the phase."""
        return start_state(params, self.optimizer, self.devices)

    def _restore(self, progress: Progress) -> TrainState:
        """Restore the state from the checkpoint that `progress` belongs to."""
        done = progress.step - self.phase.first_step
        if done == 0:  # the checkpoint ended the previous phase, with its optimizer's state
            params = self.checkpoints.params(progress.step, self.like)
            return self._start(params)
        like = jax.eval_shape(partial(start_state, optimizer=self.optimizer), self.like)
        step = self.devices.replicate(np.asarray(done, np.int32))
        return self.checkpoints.state(progress.step, self.devices.like(like)._replace(step=step))

    # ------------------------------------------------------------------ validation

    def _validate(self, params: Params) -> None:
        """Validate at the step of the last checkpoint, and store the result with it."""

        def watch(batches: Iterable[Any], label: str, total: int) -> Iterable[Any]:
            return self.stop.checked(track(batches, label, total))

        step = self.progress.step
        self.ranker.params = params
        self.ranker.objective = self.phase.objective
        rankings = self.ranker.rank(self.validation, VALIDATION, watch)
        self.ranker.params = None  # the next step donates them
        result = metrics(rankings.items, self.validation.examples.targets)
        self.writer.write(step, VALIDATION, result)
        log.info(
            "%s step %d: validation on %d users: %s",
            self.phase.name,
            step - self.phase.first_step,
            len(self.validation.examples),
            "  ".join(f"{name} {value:.5f}" for name, value in result.items()),
        )
        progress = dataclasses.replace(
            self.progress, validation_due=False, seconds=time.monotonic() - self.started
        )
        if self.phase.selects and result[METRIC] > progress.best_score:
            progress = dataclasses.replace(progress, best_step=step, best_score=result[METRIC])
        self.checkpoints.amend(step, vars(progress))
        self.progress = progress

    # ------------------------------------------------------------------ faults

    def _describe(self, error: NotFiniteError) -> str:
        """Return a message with the step, the users of its batch, and the last good checkpoint."""
        *step, found = error.args
        where = f"{self.phase.name} step {step[0]}: {found}" if step else f"{found} are not finite"
        if step:
            where += f", expected finite numbers; {self._describe_batch(step[0] - 1)}"
        self.checkpoints.wait()
        kept = self.checkpoints.steps()
        last = f"the last good checkpoint is at step {kept[-1]}" if kept else "no checkpoint exists"
        key = f"config.{self.phase.name}.learning_rate"
        return f"{where}; {last}; try a smaller {key} in another workdir"

    def _describe_batch(self, step: int) -> str:
        """Return a phrase that names the users of a step's batch by the dataset's ids."""
        plan, seed = self.phase.plan, self.config.seed
        dispatch = next(plan_dispatches(plan, seed, step, step + 1, 1, step + 1))
        rows = dispatch.rows[0][dispatch.rows[0] >= 0]
        users = self.setup.catalogue.user_ids[self.phase.plan.examples.users[rows]]
        named = ", ".join(map(str, users[:NAMED_USERS]))
        more = f" and {len(users) - NAMED_USERS} more" if len(users) > NAMED_USERS else ""
        return f"its batch contains the users {named}{more}"


def _metrics_of(pending: dict[str, list[float]]) -> StepMetrics:
    """Convert `Progress.pending` to arrays; JSON preserves float32 and int32 values exactly."""
    types = {"loss_sum": np.float32, "gradient_norm": np.float32}
    columns: list[Any] = [
        np.asarray(pending.get(name, []), types.get(name, np.int32)) for name in StepMetrics._fields
    ]
    return StepMetrics(*columns)
