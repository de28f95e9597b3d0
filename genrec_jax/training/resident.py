"""Training on a dataset whose integers lie on the device: one or several steps a call.

The host sends the numbers of the examples, 4 bytes each; users, histories and targets are gathered
inside the jitted call. A call is a loop over its steps whose length is an argument, so that a
bucket has one program however many steps a call makes, and the result is the same bit for bit. (A
single step compiled by itself rounds differently from the same step in a `lax.scan`: XLA orders
the sums of some norms' gradients otherwise.)

The step is compiled ahead of time for each bucket, so that the log can say how long that took and
what is called is known to be one program. Several processes wait for each other then: gloo gives
up on one that comes half a minute late.

On several devices each gets its share of every batch's rows; the dataset's integers are whole on
each, so that no batch waits for another device's part of the data.

Axes: B examples a batch, H items of history, k rows of batches, the first n of them steps of a
call, M examples, I items of all histories.
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
from genrec_jax.core.processes import together
from genrec_jax.data.batches import Batch, Bucket
from genrec_jax.data.sequences import Examples
from genrec_jax.models.tables import Tables
from genrec_jax.runs.train_state import TrainState
from genrec_jax.training.calls import Call
from genrec_jax.training.step import Step, StepMetrics

log = logging.getLogger(__name__)

MOST_INTERACTIONS = 2**31 - 1


class DeviceExamples(NamedTuple):
    """`data.sequences.Examples` on the device: 4 bytes an item and 16 an example."""

    items: Int[Array, " I"]
    users: Int[Array, " M"]
    starts: Int[Array, " M"]
    stops: Int[Array, " M"]
    targets: Int[Array, " M"]


def put_examples(examples: Examples) -> DeviceExamples:
    """Raises InputError for more interactions than 32 bits can number."""
    if len(examples.items) > MOST_INTERACTIONS:
        raise InputError(
            f"the dataset: found {len(examples.items)} interactions, expected at most "
            f"{MOST_INTERACTIONS}, which the devices number with 32 bits"
        )
    return DeviceExamples(
        *(jnp.asarray(getattr(examples, name), jnp.int32) for name in DeviceExamples._fields)
    )


def gather_batch(examples: DeviceExamples, rows: Int[Array, " B"], n_items: int) -> Batch:
    """What `BatchPlan.pad` makes on the host; a row of -1 only fills the batch."""
    real = rows >= 0
    rows = jnp.maximum(rows, 0)
    column = examples.starts[rows][:, None] + jnp.arange(n_items)  # [B, H]
    inside = (column < examples.stops[rows][:, None]) & real[:, None]
    items = examples.items[jnp.where(inside, column, 0)]
    return Batch(
        users=jnp.where(real, examples.users[rows], -1),
        histories=jnp.where(inside, items, -1),
        targets=jnp.where(real, examples.targets[rows], -1),
    )


def make_resident_step(step: Step, devices: Devices | None = None) -> Any:
    """`call(state, tables, examples, root, rows [k, B], n, bucket)`, jitted, the state donated.

    It gives the state after the first n rows and their metrics, [k] with zeros after the n-th.

    Args:
        step: see `make_step`.
        devices: that the state stays on as `Devices.placement` says; None: on one.
    """

    @partial(jax.jit, static_argnums=6, donate_argnums=0)
    def call(
        state: TrainState,
        tables: Tables,
        examples: DeviceExamples,
        root: jax.Array,
        rows: Int[Array, "k B"],
        n: Int[Array, ""],
        bucket: Bucket,
    ) -> tuple[TrainState, StepMetrics]:
        def one(state: TrainState, rows: Int[Array, " B"]) -> tuple[TrainState, StepMetrics]:
            batch = gather_batch(examples, rows, bucket.n_items)
            return step(state, tables, batch, root, bucket.n_tokens)

        def body(i: Int[Array, ""], carried: Any) -> Any:
            state, so_far = carried
            state, metrics = one(state, rows[i])
            if devices is not None and devices.count > 1:
                state = jax.lax.with_sharding_constraint(state, devices.placement(state))
                metrics = jax.lax.with_sharding_constraint(metrics, devices.whole)
            return state, jax.tree.map(lambda all_, new: all_.at[i].set(new), so_far, metrics)

        return jax.lax.fori_loop(0, n, body, (state, StepMetrics.zeros(len(rows))))

    return call


class Rows(NamedTuple):
    """The rows of a call, on the host or on the device."""

    rows: Any  # int32 [k, B]
    n: Any  # int32 []


@dataclass
class ResidentTrainer:
    """Runs calls; each bucket is compiled once, when it first comes."""

    step: Step
    tables: Tables
    examples: DeviceExamples
    root: jax.Array  # key of all random numbers, see `step.root_key`
    steps_per_call: int = 1  # k: the most that a call may hold
    label: str = "training"
    devices: Devices = field(default_factory=Devices.all)
    programs: dict[Bucket, Any] = field(default_factory=dict)
    compile_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._jitted = make_resident_step(self.step, self.devices)

    def put(self, call: Call) -> Rows:
        """The rows of a call, on their way to the device; nothing waits for them here."""
        n = len(call.rows)
        rows = np.pad(call.rows, ((0, self.steps_per_call - n), (0, 0)), constant_values=-1)
        places = Rows(self.devices.rows(axis=1), self.devices.whole)
        return self.devices.put(Rows(rows, np.asarray(n, np.int32)), places)

    def run(self, state: TrainState, call: Call, put: Rows) -> tuple[TrainState, StepMetrics]:
        """The state after the call's steps, and the metrics of each, [k].

        Nothing moves between host and device in here: the guard would raise.
        """
        program = self.program(state, call)
        with jax.transfer_guard("disallow"):
            return program(state, self.tables, self.examples, self.root, *put)

    def program(self, state: TrainState, call: Call) -> Any:
        """The compiled step of a call's bucket."""
        if call.bucket not in self.programs:
            started = time.monotonic()
            batch = call.rows.shape[1]
            shape = (self.steps_per_call, batch)
            rows = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=self.devices.rows(axis=1))
            n = jax.ShapeDtypeStruct((), jnp.int32, sharding=self.devices.whole)
            arguments = (state, self.tables, self.examples, self.root, rows, n, call.bucket)
            with jax.set_mesh(self.devices.mesh):
                program = together(lambda: self._jitted.lower(*arguments).compile())
            self.programs[call.bucket] = program
            seconds = time.monotonic() - started
            self.compile_seconds += seconds
            log.info(
                "%s: compiled the step for %d sequences of %d tokens in %.1f s",
                *(self.label, batch, call.bucket.n_tokens, seconds),
            )
        return self.programs[call.bucket]
