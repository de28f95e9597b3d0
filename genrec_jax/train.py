"""The story of one run: data → identifiers → model → pretrain → finetune → test."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax.numpy as jnp

from genrec_jax.config import Config, PhaseConfig
from genrec_jax.data.batches import BatchPlan
from genrec_jax.data.sequences import (
    Examples,
    UserSequences,
    next_item_examples,
    pretraining_examples,
)
from genrec_jax.evaluate import (
    evaluate_split,
    result_table,
    split_examples,
    watch,
)
from genrec_jax.experiment import (
    build_catalogue,
    load_sequences,
    log_parameters,
    log_statistics,
    model_shape,
    pretrained_folder,
    start_params,
)
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.sentences import plan_batches
from genrec_jax.measures.metrics import metrics
from genrec_jax.model.bart import BartShape
from genrec_jax.model.genrec import Params, abstract_model
from genrec_jax.model.inputs import put_on_device
from genrec_jax.progress import track_steps
from genrec_jax.recommender import Recommender
from genrec_jax.run_folder import MetricsWriter, RunFolder
from genrec_jax.run_page import write_page
from genrec_jax.training.calls import Call, plan_calls
from genrec_jax.training.checkpoint import METRIC, Checkpoints
from genrec_jax.training.cloze import Objective
from genrec_jax.training.figures import FigureLog
from genrec_jax.training.flops import device_peak, sequence_flops
from genrec_jax.training.optimizer import OptimizerSpec, learning_rate_schedule, make_optimizer
from genrec_jax.training.resident import ResidentTrainer, Rows, put_examples
from genrec_jax.training.step import TrainState, make_step, start_state
from genrec_jax.training.trace import TraceWindow

log = logging.getLogger(__name__)

# Keys that change how a run is computed and not its result: a run may go on with others.
SAME_RESULT = ("config.steps_per_call", "config.profile")


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


@dataclass(frozen=True)
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0  # of the run
    best_step: int | None = None
    best_score: float = -1.0
    seconds: float = 0.0  # of training and validation so far


def train(config: Config, folder: RunFolder) -> None:
    """Train as the config says, or go on with the run that the folder holds; then test the best."""
    folder.check_usable(config, ignored=SAME_RESULT)
    if results := folder.read_results():
        log.info("%s holds a finished run:\n%s", folder.path, result_table(results))
        if "intervals" in results and not folder.report.is_file():  # cut short before its page
            catalogue = Catalogue.load(folder.identifiers)
            write_page(config, folder, load_sequences(config.data), catalogue)
        return

    # ---------------------------------------------------------------- data and identifiers
    sequences = load_sequences(config.data)
    pretrained = pretrained_folder(config.model)
    catalogue = build_catalogue(config, sequences, pretrained)
    shape = model_shape(config.model, catalogue.vocabulary, pretrained)
    params = start_params(shape, catalogue, pretrained, config.seed)
    folder.create(config, shape)
    catalogue.save(folder.identifiers)
    handler = folder.log_to_file()
    logging.getLogger("genrec_jax").addHandler(handler)
    try:
        _train(config, folder, sequences, catalogue, shape, params)
    finally:
        logging.getLogger("genrec_jax").removeHandler(handler)
        handler.close()


def _train(
    config: Config,
    folder: RunFolder,
    sequences: UserSequences,
    catalogue: Catalogue,
    shape: BartShape,
    params: Params,
) -> None:
    log_statistics(sequences)
    log_parameters(params, shape.dtype)
    recommender = Recommender(
        catalogue, shape, config.evaluate, config.model.max_tokens, config.data.buckets
    )
    phases = list(make_phases(config, sequences, catalogue))
    traces = folder.path / "profile" if config.profile else None
    with Checkpoints(folder.checkpoints) as checkpoints:
        # ------------------------------------------------------------ where the run stands
        progress = Progress()
        if checkpoints.steps():
            progress = Progress(**checkpoints.progress(checkpoints.steps()[-1]))
            log.info("going on from the checkpoint of step %d", progress.step)
        folder.drop_metrics_after(progress.step)
        writer = MetricsWriter(folder)
        try:
            # -------------------------------------------------------- pretrain, finetune
            for phase in phases:
                runner = PhaseRunner(config, phase, catalogue, shape, sequences, recommender)
                params, progress = runner.run(params, progress, checkpoints, writer, traces)
        finally:
            writer.close()

        # ------------------------------------------------------------ test the best
        best = checkpoints.best()
        recommender.params = checkpoints.params(best, params)
        log.info(
            "testing the checkpoint of step %d (validation %s %.5f)",
            best,
            METRIC,
            progress.best_score,
        )
        path = folder.predictions / "test.parquet"
        result = evaluate_split(recommender, config, sequences, "test", path)
        result["counts"]["steps"] = progress.step
        result["counts"]["best_step"] = best
        result["seconds"]["training"] = round(progress.seconds, 2)
        folder.write_results(result)
        write_page(config, folder, sequences, catalogue)
    log.info(
        "%d steps in %.0f s, test ranked in %.0f s\n\n%s",
        progress.step,
        result["seconds"]["training"],
        result["seconds"]["ranking"],
        result_table(result),
    )


def make_phases(config: Config, sequences: UserSequences, catalogue: Catalogue) -> Iterator[Phase]:
    """Pretraining and finetuning, or the one of them that has epochs."""
    first_step = 0
    finetuning = next_item_examples(sequences, config.finetune.holdout)
    objectives: list[tuple[str, Objective, PhaseConfig, Examples]] = [
        ("pretrain", "random_item", config.pretrain, pretraining_examples(sequences)),
        ("finetune", "next_item", config.finetune, finetuning),
    ]
    for name, objective, phase, examples in objectives:
        if phase.epochs == 0:
            continue
        plan = plan_batches(
            examples,
            catalogue.table,
            config.model.max_tokens,
            phase.batch_size,
            config.data.buckets,
            name,
        )
        steps = phase.epochs * plan.steps_per_epoch
        steps = min(steps, phase.max_steps) if phase.max_steps else steps
        selects = name == "finetune" or config.finetune.epochs == 0
        yield Phase(name, objective, phase, plan, steps, first_step, selects)
        first_step += steps


class PhaseRunner:
    """One phase: steps, figures, validation, checkpoints."""

    def __init__(
        self,
        config: Config,
        phase: Phase,
        catalogue: Catalogue,
        shape: BartShape,
        sequences: UserSequences,
        recommender: Recommender,
    ):
        self.config = config
        self.phase = phase
        self.recommender = recommender
        self.validation = recommender.plan(
            split_examples(config, sequences, "validation"), "validation"
        )
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
        graph, _ = abstract_model(shape, catalogue.table.n_users, catalogue.table.n_items)
        step = make_step(
            graph,
            self.optimizer,
            phase.objective,
            config.model.user_dropout,
            config.seed,
            phase.config.accumulate,
            config.rematerialise,
        )
        table = put_on_device(catalogue.table)
        examples = put_examples(phase.plan.examples)
        self.trainer = ResidentTrainer(step, table, examples, config.steps_per_call, phase.name)
        self.shape = shape
        self.flops = partial(sequence_flops, shape, n_decoder_tokens=table.item_width + 1)

    def run(
        self,
        params: Params,
        progress: Progress,
        checkpoints: Checkpoints,
        writer: MetricsWriter,
        traces: Path | None,
    ) -> tuple[Params, Progress]:
        """From where the run stands to the end of the phase.

        Args:
            params: what the run starts from; of no use, and given up, once it has checkpoints.
            progress: of the run.
            checkpoints: to go on from and to write.
            writer: of the figures.
            traces: the folder for a trace of a few steps, or None.
        """
        phase = self.phase
        done = progress.step - phase.first_step
        if done >= phase.steps:
            return params, progress
        state = start_state(params, self.optimizer)
        if progress.step:
            state = self._restore(state, done, progress.step, checkpoints)

        started = time.monotonic() - progress.seconds
        figures = self._figures(writer, done)
        trace = TraceWindow(traces / phase.name if traces else None)
        with track_steps(phase.name, phase.steps, done) as watch:
            for call, rows, input_seconds in self._inputs(done):
                compiled_before = self.trainer.compile_seconds
                self.trainer.program(state, call)
                figures.leave_out(self.trainer.compile_seconds - compiled_before)
                trace.before()
                state, metrics = self.trainer.run(state, call, rows)
                figures.leave_out(trace.after(metrics, last=call.stop == phase.steps))
                figures.add(call, metrics, input_seconds)
                watch(len(call.rows))
                if call.stop % phase.validation_steps == 0 or call.stop == phase.steps:
                    figures.write_line(call.stop)
                    score = self._validate(state.params, call.stop, writer)
                    run_step = phase.first_step + call.stop
                    best = (progress.best_step, progress.best_score)
                    is_best = phase.selects and score > progress.best_score
                    best = (run_step, score) if is_best else best
                    progress = Progress(run_step, *best, seconds=time.monotonic() - started)
                    checkpoints.save(run_step, state, vars(progress), score if is_best else None)
                    figures.restart_clock()
        return state.params, progress

    def _inputs(self, done: int) -> Iterator[tuple[Call, Rows, float]]:
        """The calls, their rows on the device, and the seconds that making them took."""
        phase, config = self.phase, self.config
        border = phase.validation_steps
        started = time.monotonic()
        for call in plan_calls(
            phase.plan, config.seed, done, phase.steps, config.steps_per_call, border
        ):
            rows = self.trainer.put(call)
            yield call, rows, time.monotonic() - started
            started = time.monotonic()

    def _figures(self, writer: MetricsWriter, done: int) -> FigureLog:
        return FigureLog(
            phase=self.phase.name,
            steps=self.phase.steps,
            first_step=self.phase.first_step,
            every=self.config.log_every_steps,
            learning_rate=self.learning_rate,
            flops=self.flops,
            peak=device_peak(self.shape.dtype),
            write=writer.write,
            written=done,
        )

    def _restore(
        self, state: TrainState, done: int, run_step: int, checkpoints: Checkpoints
    ) -> TrainState:
        if done == 0:  # the checkpoint is the end of the phase before: another optimizer's state
            params = checkpoints.params(run_step, state.params)
            return start_state(params, self.optimizer)
        return checkpoints.state(run_step, state._replace(step=jnp.asarray(done, jnp.int32)))

    def _validate(self, params: Params, step: int, writer: MetricsWriter) -> float:
        self.recommender.params = params
        lists = self.recommender.rank(self.validation, "validation", watch)
        self.recommender.params = None  # the next step donates them
        figures = metrics(lists.items, self.validation.examples.targets)
        writer.write(self.phase.first_step + step, "validation", figures)
        log.info(
            "%s step %d: validation on %d users: %s",
            self.phase.name,
            step,
            len(self.validation.examples),
            "  ".join(f"{name} {value:.5f}" for name, value in figures.items()),
        )
        return figures[METRIC]
