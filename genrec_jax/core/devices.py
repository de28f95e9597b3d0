"""The devices of all processes as one mesh, and the placement of arrays on it.

    data    groups of devices; each group holds one copy of the two id tables
    model   the devices of one group; each holds a part of the width D of the id tables and of their
            optimizer moments

Every batch is split over all devices, whatever their position in the mesh. To look up rows of a
split table, the devices of a group exchange the row numbers (integers), each device looks up its
part of the width for the whole group, and the parts are sent to the devices that compute those
rows. All other parameters are replicated on every device.

The mesh is created in this module only, with `AxisType.Auto`: the program is written for one
device, and XLA partitions it according to the sharding of its arguments. On one device nothing is
split, and the program is bit for bit the single-device program.

Tables are split along the width because that works for any number of rows, and because each look-up
then uses every device equally, however active the users in question are.
"""

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from genrec_jax.core.errors import InputError

log = logging.getLogger(__name__)

DATA, MODEL = "data", "model"
ROWS = (DATA, MODEL)  # the mesh axes over which the examples of a batch are split
SPLIT_TABLES = ("user_embedding", "item_embedding")  # names of the split parameters, [rows, D]


@dataclass(frozen=True)
class Devices:
    """The device mesh and the placements of arrays on it. Placing an array keeps its values.

    Every process must call the same methods with the same values in the same order; each process
    transfers the parts that its own devices need.
    """

    mesh: Mesh

    @classmethod
    def all(cls, model_parallel: int = 1) -> "Devices":
        """Create the mesh of all devices of all processes, ordered by process.

        Args:
            model_parallel: the number of devices that share one copy of the id tables.

        Raises:
            InputError: `model_parallel` does not divide the number of devices.
        """
        devices = usable_devices()
        if len(devices) % model_parallel:
            raise InputError(
                f"config.model_parallel: found {model_parallel}, expected a divisor of the "
                f"{len(devices)} devices"
            )
        shape = (len(devices) // model_parallel, model_parallel)
        # Adjacent devices share a host, so that the parts of one table copy stay on one host.
        return cls(Mesh(np.array(devices).reshape(shape), (DATA, MODEL), (AxisType.Auto,) * 2))

    @classmethod
    def for_ranking(cls, model_parallel: int) -> "Devices":
        """Create the mesh of all devices to rank with a run, perhaps on fewer than it trained on.

        Args:
            model_parallel: the number of table parts in training. If it does not divide the number
                of devices, the greatest common divisor of both is used and logged.
        """
        count = len(usable_devices())
        fitting = math.gcd(model_parallel, count)
        if fitting != model_parallel:
            log.info(
                "splitting the id tables into %d parts: the run's %d parts do not divide the "
                "%d devices",
                *(fitting, model_parallel, count),
            )
        return cls.all(fitting)

    @property
    def count(self) -> int:
        """The number of devices of all processes."""
        return self.mesh.size

    def __str__(self) -> str:
        kind = self.mesh.devices.flat[0].device_kind
        hosts = len({device.process_index for device in self.mesh.devices.flat})
        parts = self.mesh.shape[MODEL]
        return (
            f"{self.count} x {kind} in {hosts} process{'es' * (hosts > 1)}, "
            f"id tables in {parts} part{'s' * (parts > 1)}"
        )

    # ------------------------------------------------------------------ shardings

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of an array that is replicated on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def rows(self, axis: int = 0) -> NamedSharding:
        """Return the sharding of an array whose dimension `axis` runs over a batch's examples."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, ROWS))

    def placement(self, tree: Any) -> Any:
        """Return the sharding of each leaf of parameters or of an optimizer state.

        Two-dimensional leaves named in SPLIT_TABLES are split along their width; all other leaves
        are replicated.

        Args:
            tree: parameters, or an optimizer state whose leaves have the parameters' names.

        Returns:
            A tree of the same structure with a NamedSharding at each leaf.
        """
        split = NamedSharding(self.mesh, PartitionSpec(None, MODEL))

        def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            name = getattr(path[-1], "key", None) if path else None
            return split if name in SPLIT_TABLES and leaf.ndim == 2 else self.replicated

        return jax.tree_util.tree_map_with_path(of, tree)

    def like(self, tree: Any) -> Any:
        """Return shapes, dtypes and shardings of a tree, so that it can be restored in place.

        Args:
            tree: parameters or an optimizer state.

        Returns:
            A tree of the same structure with a ShapeDtypeStruct at each leaf.
        """
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            self.placement(tree),
        )

    def per_device(self, work: Any, params: Any) -> Any:
        """Wrap `work` so that each device runs it on its own examples, without communication.

        Args:
            work: a function `work(params, examples, whole)` from arrays of examples to arrays of
                examples. On each device it receives that device's part of the parameters (split
                tables stay split), its examples, and all of `whole`.
            params: the parameters that the function will be called with; only their structure is
                used.

        Returns:
            A function with the same signature; `work` itself on one device.
        """
        if self.count == 1:
            return work
        of_params = jax.tree.map(lambda sharding: sharding.spec, self.placement(params))
        rows, whole = self.rows().spec, self.replicated.spec
        return jax.shard_map(
            work,
            mesh=self.mesh,
            in_specs=(of_params, rows, whole),
            out_specs=rows,
            check_vma=False,
        )

    # ------------------------------------------------------------------ transfers

    def put(self, tree: Any, shardings: Any) -> Any:
        """Transfer arrays to the devices.

        Args:
            tree: NumPy arrays, or JAX arrays of this process. Every process has them in full.
            shardings: one sharding for all leaves, or a tree with a sharding for each leaf.

        Returns:
            The tree as global JAX arrays with these shardings.
        """
        if jax.process_count() == 1:
            return jax.device_put(tree, shardings)
        if isinstance(shardings, NamedSharding):
            sharding = shardings
            shardings = jax.tree.map(lambda _: sharding, tree)
        return jax.tree.map(_put_local_part, tree, shardings)

    def replicate(self, tree: Any) -> Any:
        """Replicate arrays on every device."""
        return self.put(tree, self.replicated)

    def put_params(self, params: Any) -> Any:
        """Transfer parameters to the devices with the shardings given by `placement`."""
        return self.put(params, self.placement(params))

    def check_width(self, width: int) -> None:
        """Raise InputError if the width D of the id tables cannot be split evenly over `model`."""
        parts = self.mesh.shape[MODEL]
        if width % parts:
            raise InputError(
                f"config.model_parallel: found {parts}, expected a divisor of the model's width "
                f"{width}"
            )

    def check_batch_size(self, key: str, batch_size: int) -> None:
        """Raise InputError if the batch size set by `key` cannot be split evenly over all devices.

        Args:
            key: the config key of the batch size, for the message.
            batch_size: examples per batch, over all devices.
        """
        if batch_size % self.count:
            raise InputError(
                f"{key}: found {batch_size}, expected a multiple of {self.count}, the number of "
                "devices over which a batch is split"
            )


def usable_devices() -> list[Any]:
    """Return the devices of all processes.

    Raises:
        InputError: JAX cannot use the platform that JAX_PLATFORMS selects.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the text is empty if a platform is missing
        selected = jax.config.values["jax_platforms"] or "the default platform"
        reason = " ".join(str(error).split())[:160] or "the platform is not available"
        raise InputError(
            f"JAX_PLATFORMS: JAX cannot use {selected} ({reason}), expected a platform of this "
            "machine, such as JAX_PLATFORMS=cpu"
        ) from None


def resolve_dtype(name: str) -> str:
    """Return the compute dtype of a config; `auto` is float32 on a CPU and bfloat16 elsewhere."""
    if name != "auto":
        return name
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def on_host() -> AbstractContextManager[Any]:
    """Return a context in which new arrays are created in host memory.

    An id table may be too large for the memory of one device.
    """
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS does not include the CPU
        return nullcontext()


def look_up(table: Float[Array, "rows D"], rows: Int[Array, "B *axes"]) -> Float[Array, "..."]:
    """Return `table[rows]`, where the table may be split over `model` and `rows` over all devices.

    The shardings of the intermediate results are explicit. Otherwise XLA would keep D split through
    the following layers and add a reduction after each matrix product. Must be traced under
    `jax.set_mesh`; without a mesh, or if `model` has one device, it is a plain look-up.

    Args:
        table: an id table of the parameters.
        rows: row numbers, none of them negative.

    Returns:
        The rows, [B, *axes, D].
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape[MODEL] == 1:
        return table[rows]
    rows = jax.lax.with_sharding_constraint(rows, PartitionSpec(DATA))
    inner = [None] * (rows.ndim - 1)
    parts = jax.lax.with_sharding_constraint(table[rows], PartitionSpec(DATA, *inner, MODEL))
    return jax.lax.with_sharding_constraint(parts, PartitionSpec(ROWS))


def constrain_rows(x: Array, axis: int) -> Array:
    """Constrain an array to be split over all devices along its dimension of examples.

    Must be traced under `jax.set_mesh`; without a mesh, or on one device, the array is returned
    unchanged.

    Args:
        x: the array.
        axis: the dimension that runs over the examples of a batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, ROWS))


def _put_local_part(array: Any, sharding: NamedSharding) -> jax.Array:
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
