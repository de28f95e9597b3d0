"""A model with a few thousand parameters and its training phase, for tests of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrec_jax.data.batches import BatchPlan
from genrec_jax.data.sequences import UserSequences, pretraining_examples
from genrec_jax.identifiers.catalogue import Catalogue
from genrec_jax.identifiers.input_lengths import plan_batches, token_lengths
from genrec_jax.models.contract import abstract_model, init_params
from genrec_jax.models.genrec.model import GenRecShape
from genrec_jax.models.tables import Tables, put_on_device
from genrec_jax.runs.train_state import TrainState
from genrec_jax.training.dispatches import Dispatch, plan_dispatches
from genrec_jax.training.multi_step import MultiStepTrainer, put_examples
from genrec_jax.training.optimizer import OptimizerSpec, make_optimizer
from genrec_jax.training.step import Step, make_step, root_key, start_state

SPEC = OptimizerSpec(steps=50, learning_rate=3e-3, weight_decay=0.1, warmup=0.1, clip_norm=1.0)


@dataclass
class Small:
    """Pretraining on the synthetic users: 15 batches of 4 per epoch, in two buckets."""

    catalogue: Catalogue
    plan: BatchPlan
    shape: GenRecShape

    @classmethod
    def build(cls, sequences: UserSequences, catalogue: Catalogue, rate: float) -> "Small":
        examples = pretraining_examples(sequences).take(np.arange(58))  # the last batch has 2
        plan = plan_batches(examples, token_lengths(catalogue.table, 80), 4, 2, "test")
        sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_heads": 2, "decoder_heads": 2}
        shape = GenRecShape(
            **sizes,
            vocab_size=catalogue.vocabulary.size,
            d_model=16,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_positions=80,
            init_std=0.1,
            dropout=rate,
            attention_dropout=rate,
            activation_dropout=rate,
            user_dropout=0.5,
        )
        return cls(catalogue, plan, shape)

    def step(self, spec: OptimizerSpec = SPEC, **changes: Any) -> Step:
        graph, _ = abstract_model(self.shape, *self._sizes)
        return make_step(graph, make_optimizer(spec), "random_item", **changes)

    def trainer(self, steps_per_dispatch: int) -> MultiStepTrainer:
        examples = put_examples(self.plan.examples)
        root = root_key(0, "random_item")
        return MultiStepTrainer(self.step(), self.tables, examples, root, steps_per_dispatch)

    @property
    def tables(self) -> Tables:
        return Tables(put_on_device(self.catalogue.table))

    def start(self, spec: OptimizerSpec = SPEC) -> TrainState:
        return start_state(init_params(self.shape, *self._sizes, seed=0), make_optimizer(spec))

    def dispatches(
        self, stop: int, steps_per_dispatch: int = 1, start: int = 0
    ) -> Sequence[Dispatch]:
        return list(plan_dispatches(self.plan, 0, start, stop, steps_per_dispatch, border=10_000))

    def train(
        self, trainer: MultiStepTrainer, stop: int, state: TrainState | None = None
    ) -> tuple[TrainState, list[float]]:
        """Train up to step `stop` of the phase; return the state and the loss of each step."""
        state = self.start() if state is None else state
        losses: list[float] = []
        for dispatch in self.dispatches(stop, trainer.steps_per_dispatch, int(state.step)):
            state, metrics = trainer.run(state, dispatch, trainer.put(dispatch))
            means = np.asarray(metrics.loss_sum) / np.maximum(metrics.tokens, 1)
            losses += means[: len(dispatch.rows)].tolist()
        return state, losses

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.catalogue.table.n_users, self.catalogue.table.n_items
