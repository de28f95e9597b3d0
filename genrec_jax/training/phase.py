"""One phase of a run, pretraining or finetuning: steps, figures, checkpoints, validation.

A checkpoint is made at every validation, before it, at the stated cadence, and when the process
is asked to stop. It holds the figures of the steps that no line has told yet, so that a run can be
cut anywhere and writes the same lines; a validation that was cut short is made again.
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
from genrec_jax.core.processes import Agreement, is_first
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
from genrec_jax.identifiers.sentences import InputLengths, plan_batches
from genrec_jax.models import load_family
from genrec_jax.models.contract import Objective, Params
from genrec_jax.models.run_config import FinetuneConfig, PhaseConfig, RunConfig
from genrec_jax.runs.checkpoint import Checkpoints
from genrec_jax.runs.model import ModelSetup
from genrec_jax.runs.run_folder import METRIC, VALIDATION, MetricsWriter
from genrec_jax.runs.train_state import TrainState
from genrec_jax.training.calls import Call, plan_calls
from genrec_jax.training.figures import FigureLog
from genrec_jax.training.flops import device_peak
from genrec_jax.training.optimizer import OptimizerSpec, learning_rate_schedule, make_optimizer
from genrec_jax.training.resident import ResidentTrainer, Rows, put_examples
from genrec_jax.training.step import StepMetrics, make_step, root_key, start_state
from genrec_jax.training.trace import TraceWindow

log = logging.getLogger(__name__)

NAMED_USERS = 16  # of a batch that made the loss infinite


@dataclass(frozen=True)
class Phase:
    """Pretraining or finetuning: its batches and its length."""

    name: str
    objective: Objective
    config: PhaseConfig
    plan: BatchPlan
    steps: int
    first_step: int  # of the run, at the start of the phase
    selects: bool  # its validation chooses the best checkpoint

    @property
    def validation_steps(self) -> int:
        """Steps between validations; the end of the phase is always one."""
        steps = self.config.validate_every_steps
        return steps or self.config.validate_every_epochs * self.plan.steps_per_epoch or self.steps


def make_phases(
    config: RunConfig, sequences: UserSequences, lengths: InputLengths
) -> Iterator[Phase]:
    """Pretraining and finetuning, or the one of them that has epochs."""
    first_step = 0
    finetuning = finetuning_examples(sequences, config.finetune)
    work: dict[str, tuple[Objective, Examples]] = {
        "pretrain": ("random_item", pretraining_examples(sequences)),
        "finetune": (finetuning_objective(config), finetuning),
    }
    for name, phase in config.phases().items():
        if phase.epochs == 0:
            continue
        objective, examples = work[name]
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
    split = prefix_examples if finetune.uses_prefixes else next_item_examples
    return split(sequences, finetune.holdout)


def finetuning_objective(config: RunConfig) -> Objective:
    """What finetuning asks the model to predict."""
    return load_family(config.model.family).objective(config)


def last_objective(config: RunConfig) -> Objective:
    """The objective of the last phase that has epochs, which the trained model answers to."""
    return finetuning_objective(config) if config.finetune.epochs else "random_item"


@dataclass(frozen=True)
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0  # of the run
    best_step: int | None = None
    best_score: float = -1.0
    seconds: float = 0.0  # of training and validation so far
    validation_due: bool = False  # that of `step` is not through
    objective: Objective = "random_item"  # of this phase: ranking asks the model accordingly
    # The StepMetrics of the steps that no line of metrics.jsonl has told yet.
    pending: dict[str, list[float]] = field(default_factory=dict)


class PhaseRunner:
    """Runs one phase."""

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
        examples = self.devices.put_whole(put_examples(phase.plan.examples))
        root = self.devices.put_whole(root_key(config.seed, phase.objective))
        steps_per_call = min(config.steps_per_dispatch, config.log_every_steps)
        self.trainer = ResidentTrainer(
            step, ranker.tables, examples, root, steps_per_call, phase.name, self.devices
        )
        self.save_request = Agreement()
        self.flops = setup.sequence_flops(phase.objective)

    def run(
        self, params: Params | None, progress: Progress, traces: Path | None
    ) -> tuple[Params | None, Progress]:
        """From where the run stands to the end of the phase.

        Args:
            params: to start from; None: those of the checkpoint that `progress` belongs to.
            progress: of the run.
            traces: the folder for a trace of a few steps, or None.

        Raises:
            Stopped: the process was asked to, and a checkpoint of the last step is on its way.
            NotFiniteError: the loss, a gradient or the parameters are not; nothing of it is saved.
        """
        done = progress.step - self.phase.first_step
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
            raise NotFiniteError(self._in_words(error)) from None
        return state.params, self.progress

    def _train(self, state: TrainState, done: int, trace: TraceWindow) -> TrainState:
        phase, trainer = self.phase, self.trainer
        figures = self._figures(done)
        self.stop.heed()
        self.saved_at = time.monotonic()
        with track_steps(phase.name, phase.steps, done) as watch:
            for call, rows, input_seconds in self._inputs(done):
                compiled_before = trainer.compile_seconds
                trainer.program(state, call)
                figures.leave_out(trainer.compile_seconds - compiled_before)
                trace.before()
                state, metrics = trainer.run(state, call, rows)
                figures.leave_out(trace.after(metrics, last=call.stop == phase.steps))
                figures.add(call, metrics, input_seconds)
                watch(len(call.rows))
                validates = call.stop % phase.validation_steps == 0 or call.stop == phase.steps
                if validates:
                    figures.write_line(call.stop)
                if validates or self.stop.is_due() or self._is_save_due(call):
                    figures.leave_out(self._save(state, call.stop, figures, validates))
                    self.stop.heed()
                if validates:
                    self._validate(state.params)
                    figures.restart_clock()
        return state

    def _inputs(self, done: int) -> Iterator[tuple[Call, Rows, float]]:
        """The calls, their rows on the device, and the seconds that making them took."""
        phase, config = self.phase, self.config
        border = phase.validation_steps
        started = time.monotonic()
        at_once = self.trainer.steps_per_call
        for call in plan_calls(phase.plan, config.seed, done, phase.steps, at_once, border):
            rows = self.trainer.put(call)
            yield call, rows, time.monotonic() - started
            started = time.monotonic()

    def _figures(self, done: int) -> FigureLog:
        """Goes on with the line that the checkpoint was made in."""
        pending = _metrics_of(self.progress.pending)
        n = len(pending.loss_sum)
        return FigureLog(
            phase=self.phase.name,
            steps=self.phase.steps,
            first_step=self.phase.first_step,
            every=self.config.log_every_steps,
            learning_rate=self.learning_rate,
            flops=self.flops,
            peak=device_peak(self.setup.shape.dtype),
            write=self.writer.write,
            written=done - n,
            waiting=[(n, pending)],
        )

    # ------------------------------------------------------------------ checkpoints

    def _is_save_due(self, call: Call) -> bool:
        steps, minutes = self.config.checkpoint_every_steps, self.config.checkpoint_every_minutes
        first = self.phase.first_step
        if steps and (first + call.stop) // steps > (first + call.start) // steps:
            return True
        # The clock of the first process, so that all save at the same step.
        if minutes and is_first() and time.monotonic() - self.saved_at >= 60 * minutes:
            self.save_request.ask()
        if self.save_request.reached() is None:
            return False
        self.save_request.start_over()
        return True

    def _save(self, state: TrainState, done: int, figures: FigureLog, validates: bool) -> float:
        """Seconds that it kept training waiting for."""
        started = time.monotonic()
        pending = figures.pending()._asdict()
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
        return start_state(params, self.optimizer, self.devices)

    def _restore(self, progress: Progress) -> TrainState:
        done = progress.step - self.phase.first_step
        if done == 0:  # the checkpoint is the end of the phase before: another optimizer's state
            params = self.checkpoints.params(progress.step, self.like)
            return self._start(params)
        like = jax.eval_shape(partial(start_state, optimizer=self.optimizer), self.like)
        step = self.devices.put_whole(np.asarray(done, np.int32))
        return self.checkpoints.state(progress.step, self.devices.like(like)._replace(step=step))

    # ------------------------------------------------------------------ validation

    def _validate(self, params: Params) -> None:
        """The validation of the step that the last checkpoint was made at, which then knows it."""

        def watch(batches: Iterable[Any], label: str, total: int) -> Iterable[Any]:
            return self.stop.heeded(track(batches, label, total))

        step = self.progress.step
        self.ranker.params = params
        self.ranker.objective = self.phase.objective
        lists = self.ranker.rank(self.validation, VALIDATION, watch)
        self.ranker.params = None  # the next step donates them
        found = metrics(lists.items, self.validation.examples.targets)
        self.writer.write(step, VALIDATION, found)
        log.info(
            "%s step %d: validation on %d users: %s",
            self.phase.name,
            step - self.phase.first_step,
            len(self.validation.examples),
            "  ".join(f"{name} {value:.5f}" for name, value in found.items()),
        )
        progress = dataclasses.replace(
            self.progress, validation_due=False, seconds=time.monotonic() - self.started
        )
        if self.phase.selects and found[METRIC] > progress.best_score:
            progress = dataclasses.replace(progress, best_step=step, best_score=found[METRIC])
        self.checkpoints.amend(step, vars(progress))
        self.progress = progress

    # ------------------------------------------------------------------ faults

    def _in_words(self, error: NotFiniteError) -> str:
        """Where it was and what the run can go on from."""
        *step, found = error.args
        where = f"{self.phase.name} step {step[0]}: {found}" if step else f"{found} are not finite"
        if step:
            where += f", expected finite numbers; {self._batch_in_words(step[0] - 1)}"
        self.checkpoints.wait()
        kept = self.checkpoints.steps()
        last = f"the last good checkpoint is of step {kept[-1]}" if kept else "no checkpoint yet"
        key = f"config.{self.phase.name}.learning_rate"
        return f"{where}; {last}; a smaller {key} in another workdir may help"

    def _batch_in_words(self, step: int) -> str:
        """Whose sequences the batch of a step holds, by the dataset's ids."""
        call = next(plan_calls(self.phase.plan, self.config.seed, step, step + 1, 1, step + 1))
        rows = call.rows[0][call.rows[0] >= 0]
        users = self.setup.catalogue.user_ids[self.phase.plan.examples.users[rows]]
        named = ", ".join(map(str, users[:NAMED_USERS]))
        more = f" and {len(users) - NAMED_USERS} more" if len(users) > NAMED_USERS else ""
        return f"its batch has the users {named}{more}"


def _metrics_of(pending: dict[str, list[float]]) -> StepMetrics:
    """As `Progress.pending` keeps them; float32 and int32 go through JSON unchanged."""
    types = {"loss_sum": np.float32, "gradient_norm": np.float32}
    columns: list[Any] = [
        np.asarray(pending.get(name, []), types.get(name, np.int32)) for name in StepMetrics._fields
    ]
    return StepMetrics(*columns)
