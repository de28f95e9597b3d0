"""Multi-step dispatches over a dataset that is on the device.

The host sends only the row numbers of the examples, 4 bytes each; users, histories and targets are
gathered inside the jitted function. A dispatch is a loop over its steps whose length is an
argument. A bucket therefore has one program whatever the number of steps, and the results are
identical bit for bit. (A single step that is compiled alone rounds differently from the same step
in a `lax.scan`, because XLA orders the sums of some norms' gradients differently.)

The step is compiled ahead of time for each bucket, so that the log can report the time and every
dispatch is known to run one program. Several processes wait for each other at this point, because
gloo gives up on a process that arrives half a minute late.

On several devices, each computes its share of the rows of every batch. The dataset's integers are
replicated, so no batch waits for data of another device.

Axes: B examples in a batch, H items of history, k batches in the argument, of which the first n
are the steps of the dispatch, M examples, I items of all histories.
"""

import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from genrec_jax.core.devices import Devices
from genrec_jax.core.errors import InputError
from genrec_jax.core.processes import barrier
from genrec_jax.data.batches import Batch, Bucket
from genrec_jax.data.sequences import Examples
from genrec_jax.models.tables import Tables
from genrec_jax.runs.train_state import TrainState
from genrec_jax.training.dispatches import Dispatch
from genrec_jax.training.step import Step, StepMetrics

log = logging.getLogger(__name__)

MOST_INTERACTIONS = 2**31 - 1


class DeviceExamples(NamedTuple):
    """`data.sequences.Examples` on the device: 4 bytes per item and 16 per example."""

    items: Int[Array, " I"]
    users: Int[Array, " M"]
    starts: Int[Array, " M"]
    stops: Int[Array, " M"]
    targets: Int[Array, " M"]


def put_examples(examples: Examples) -> DeviceExamples:
    """Put the arrays of the examples on the default device as int32.

    Raises:
        InputError: there are more interactions than 32 bits can index.
    """
    if len(examples.items) > MOST_INTERACTIONS:
        raise InputError(
            f"the dataset: found {len(examples.items)} interactions, expected at most "
            f"{MOST_INTERACTIONS}, since devices index them with 32 bits"
        )
    return DeviceExamples(
        *(jnp.asarray(getattr(examples, name), jnp.int32) for name in DeviceExamples._fields)
    )


def gather_batch(examples: DeviceExamples, rows: Int[Array, " B"], n_items: int) -> Batch:
    """Gather a batch on the device, equal to the one that `BatchPlan.pad` builds on the host.

    Args:
        examples: the examples on the device.
        rows: the examples of the batch, -1 for padding.
        n_items: H, the padded length of the histories.
    """
    is_example = rows >= 0
    rows = jnp.maximum(rows, 0)
    index = examples.starts[rows][:, None] + jnp.arange(n_items)  # [B, H]
    is_item = (index < examples.stops[rows][:, None]) & is_example[:, None]
    items = examples.items[jnp.where(is_item, index, 0)]
    return Batch(
        users=jnp.where(is_example, examples.users[rows], -1),
        histories=jnp.where(is_item, items, -1),
        targets=jnp.where(is_example, examples.targets[rows], -1),
    )


def make_multi_step(step: Step, devices: Devices | None = None) -> Any:
    """Return the jitted `dispatch(state, tables, examples, root, rows [k, B], n, bucket)`.

    The state is donated. The result is the state after the first n batches and their metrics, [k]
    with zeros after the n-th.

    Args:
        step: the training step, from `make_step`.
        devices: the devices, which keep the state placed by `Devices.placement`; None: one device.
    """

    @partial(jax.jit, static_argnums=6, donate_argnums=0)
    def dispatch(
        state: TrainState,
        tables: Tables,
        examples: DeviceExamples,
        root: jax.Array,
        rows: Int[Array, "k B"],
        n: Int[Array, ""],
        bucket: Bucket,
    ) -> tuple[TrainState, StepMetrics]:
        def run_step(state: TrainState, rows: Int[Array, " B"]) -> tuple[TrainState, StepMetrics]:
            batch = gather_batch(examples, rows, bucket.n_items)
            return step(state, tables, batch, root, bucket.n_tokens)

        def body(i: Int[Array, ""], carried: Any) -> Any:
            state, all_metrics = carried
            state, metrics = run_step(state, rows[i])
            if devices is not None and devices.count > 1:
                state = jax.lax.with_sharding_constraint(state, devices.placement(state))
                metrics = jax.lax.with_sharding_constraint(metrics, devices.replicated)
            return state, jax.tree.map(lambda xs, x: xs.at[i].set(x), all_metrics, metrics)

        return jax.lax.fori_loop(0, n, body, (state, StepMetrics.zeros(len(rows))))

    return dispatch


class Rows(NamedTuple):
    """The example rows of a dispatch and its number of steps, on the host or on the devices."""

    rows: Any  # int32 [k, B], -1 for padding
    n: Any  # int32 [], number of steps


@dataclass
class MultiStepTrainer:
    """Run multi-step dispatches; each bucket is compiled once, at its first dispatch."""

    step: Step  # the training step, from `step.make_step`
    tables: Tables  # the model's tables on the devices
    examples: DeviceExamples  # the phase's examples on the devices
    root: jax.Array  # root of all random numbers, from `step.root_key`
    steps_per_dispatch: int = 1  # k, the most steps of a dispatch
    label: str = "training"  # for log lines
    devices: Devices = field(default_factory=Devices.all)
    programs: dict[Bucket, Any] = field(default_factory=dict)  # compiled programs
    compile_seconds: float = 0.0  # total time of compilations so far

    def __post_init__(self) -> None:
        self._jitted = make_multi_step(self.step, self.devices)

    def put(self, dispatch: Dispatch) -> Rows:
        """Start to copy the rows of a dispatch to the device, without waiting for them."""
        n = len(dispatch.rows)
        padding = ((0, self.steps_per_dispatch - n), (0, 0))
        rows = np.pad(dispatch.rows, padding, constant_values=-1)
        shardings = Rows(self.devices.rows(axis=1), self.devices.replicated)
        return self.devices.put(Rows(rows, np.asarray(n, np.int32)), shardings)

    def run(
        self, state: TrainState, dispatch: Dispatch, put: Rows
    ) -> tuple[TrainState, StepMetrics]:
        """Run the steps of a dispatch.

        A transfer guard raises if anything is copied between host and device here.

        Args:
            state: the state before the first step; it is donated.
            dispatch: the steps.
            put: the rows of the dispatch, from `put`.

        Returns:
            The state after the last step, and the metrics of each step, [k].
        """
        program = self.program(state, dispatch)
        with jax.transfer_guard("disallow"):
            return program(state, self.tables, self.examples, self.root, *put)

    def program(self, state: TrainState, dispatch: Dispatch) -> Any:
        """Return the compiled program of a dispatch's bucket; compile it at first use."""
        if dispatch.bucket not in self.programs:
            started = time.monotonic()
            batch = dispatch.rows.shape[1]
            shape = (self.steps_per_dispatch, batch)
            rows = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=self.devices.rows(axis=1))
            n = jax.ShapeDtypeStruct((), jnp.int32, sharding=self.devices.replicated)
            arguments = (state, self.tables, self.examples, self.root, rows, n, dispatch.bucket)
            with jax.set_mesh(self.devices.mesh):
                program = barrier(lambda: self._jitted.lower(*arguments).compile())
            self.programs[dispatch.bucket] = program
            seconds = time.monotonic() - started
            self.compile_seconds += seconds
            log.info(
                "%s: compiled the step for %d sequences of %d tokens in %.1f s",
                *(self.label, batch, dispatch.bucket.n_tokens, seconds),
            )
        return self.programs[dispatch.bucket]
