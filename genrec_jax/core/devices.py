"""All devices of all processes as one mesh, and what lies where on it.

    data    groups of devices; each group has one copy of the two id tables
    model   the devices of a group; each holds its share of the width D of the id tables and of
            their optimizer moments

Every device computes its share of every batch, whatever its place. For a look-up in a split table
the devices of a group tell each other their rows (integers), each looks up its part of the width
for all of them, and the parts go to where their rows are computed. All else is whole on every
device. The mesh is built here and nowhere else, with `AxisType.Auto`: the program is written for
one device, and XLA splits it by where its arguments lie. On one device nothing is split, and the
program is the same to the last bit.

Tables are split along the width because that works for any number of rows, and because each look-up
then touches every device alike, whichever users are the busy ones.
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
ROWS = (DATA, MODEL)  # what the examples of a batch are split over
SPLIT_TABLES = ("user_embedding", "item_embedding")  # parameters [rows, D]


@dataclass(frozen=True)
class Devices:
    """The mesh, and the placements that the program knows. All methods keep values as they are.

    Every process must call the same methods with the same values in the same order, and each puts
    on its own devices what they need.
    """

    mesh: Mesh

    @classmethod
    def all(cls, model_parallel: int = 1) -> "Devices":
        """Those of all processes, process by process.

        Args:
            model_parallel: devices that share one copy of the id tables.

        Raises:
            InputError: that does not divide the number of devices.
        """
        found = usable_devices()
        if len(found) % model_parallel:
            raise InputError(
                f"config.model_parallel: found {model_parallel}, expected a divisor of the "
                f"{len(found)} devices"
            )
        shape = (len(found) // model_parallel, model_parallel)
        # Neighbours in the list share a host: the tables' parts stay on one.
        return cls(Mesh(np.array(found).reshape(shape), (DATA, MODEL), (AxisType.Auto,) * 2))

    @classmethod
    def to_rank(cls, model_parallel: int) -> "Devices":
        """All, for a run that was trained with `model_parallel`, perhaps on more devices."""
        count = len(usable_devices())
        fitting = math.gcd(model_parallel, count)
        if fitting != model_parallel:
            log.info(
                "id tables in %d parts and not in the run's %d, which do not divide %d devices",
                *(fitting, model_parallel, count),
            )
        return cls.all(fitting)

    @property
    def count(self) -> int:
        return self.mesh.size

    def __str__(self) -> str:
        kind = self.mesh.devices.flat[0].device_kind
        hosts = len({device.process_index for device in self.mesh.devices.flat})
        parts = self.mesh.shape[MODEL]
        return (
            f"{self.count} x {kind} in {hosts} process{'es' * (hosts > 1)}, "
            f"id tables in {parts} part{'s' * (parts > 1)}"
        )

    # ------------------------------------------------------------------ where things lie

    @property
    def whole(self) -> NamedSharding:
        """The same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def rows(self, axis: int = 0) -> NamedSharding:
        """An array whose `axis` are the examples of a batch."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, ROWS))

    def placement(self, tree: Any) -> Any:
        """A sharding for each leaf of parameters or of an optimizer's state, by its name."""
        split = NamedSharding(self.mesh, PartitionSpec(None, MODEL))

        def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            name = getattr(path[-1], "key", None) if path else None
            return split if name in SPLIT_TABLES and leaf.ndim == 2 else self.whole

        return jax.tree_util.tree_map_with_path(of, tree)

    def like(self, tree: Any) -> Any:
        """The shapes of parameters or of an optimizer's state, to restore them in place."""
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            tree,
            self.placement(tree),
        )

    def apart(self, work: Any, params: Any) -> Any:
        """`work(params, examples, whole)` for each device's own examples; nothing goes between.

        Args:
            work: for arrays of examples, which it gives such arrays of; it gets what the device has
                of the parameters, their split tables in parts.
            params: that it will be called with.
        """
        if self.count == 1:
            return work
        of_params = jax.tree.map(lambda place: place.spec, self.placement(params))
        rows, whole = self.rows().spec, self.whole.spec
        return jax.shard_map(
            work,
            mesh=self.mesh,
            in_specs=(of_params, rows, whole),
            out_specs=rows,
            check_vma=False,
        )

    # ------------------------------------------------------------------ putting them there

    def put(self, tree: Any, places: Any) -> Any:
        """Arrays that every process has whole, on the devices that need them.

        Args:
            tree: NumPy arrays, or JAX arrays of this process.
            places: a sharding for all leaves, or a tree of them.
        """
        if jax.process_count() == 1:
            return jax.device_put(tree, places)
        if isinstance(places, NamedSharding):
            one = places
            places = jax.tree.map(lambda _: one, tree)
        return jax.tree.map(_put_own_share, tree, places)

    def put_whole(self, tree: Any) -> Any:
        """The same on every device."""
        return self.put(tree, self.whole)

    def put_params(self, params: Any) -> Any:
        return self.put(params, self.placement(params))

    def check_width(self, width: int) -> None:
        """Raise InputError if the width D of the tables cannot be split evenly over `model`."""
        parts = self.mesh.shape[MODEL]
        if width % parts:
            raise InputError(
                f"config.model_parallel: found {parts}, expected a divisor of the model's width "
                f"{width}"
            )

    def check_divides(self, key: str, batch_size: int) -> None:
        """Raise InputError if a batch of that size, set by `key`, cannot be split evenly."""
        if batch_size % self.count:
            raise InputError(
                f"{key}: found {batch_size}, expected a multiple of {self.count}, the devices that "
                "a batch is split over"
            )


def usable_devices() -> list[Any]:
    """The devices of all processes. Raises InputError if JAX cannot use what it was told to use."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # without a text where a platform is missing
        asked = jax.config.values["jax_platforms"] or "the default platform"
        reason = " ".join(str(error).split())[:160] or "the platform is not there"
        raise InputError(
            f"JAX_PLATFORMS: JAX cannot use {asked} ({reason}), expected a platform of this "
            "machine, as in JAX_PLATFORMS=cpu"
        ) from None


def resolve_dtype(name: str) -> str:
    """The compute dtype of a config: `auto` is float32 on a CPU, else bfloat16."""
    if name != "auto":
        return name
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def on_host() -> AbstractContextManager[Any]:
    """Within, new arrays lie in the host's memory: an id table may be too large for one device."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return nullcontext()


def look_up(table: Float[Array, "rows D"], rows: Int[Array, "B *axes"]) -> Float[Array, "..."]:
    """`table[rows]`, where the table may be split over `model` and the rows over all devices.

    Said outright, XLA would keep D split through the layers and add up after each matrix product.
    To be traced under `jax.set_mesh`; without a mesh, or where `model` is one device, it is plain.

    Args:
        table: of parameters.
        rows: none of them negative.

    Returns:
        [B, *axes, D]
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape[MODEL] == 1:
        return table[rows]
    rows = jax.lax.with_sharding_constraint(rows, PartitionSpec(DATA))
    inner = [None] * (rows.ndim - 1)
    parts = jax.lax.with_sharding_constraint(table[rows], PartitionSpec(DATA, *inner, MODEL))
    return jax.lax.with_sharding_constraint(parts, PartitionSpec(ROWS))


def split_rows(x: Array, axis: int) -> Array:
    """An array whose `axis` are examples, split over all devices; as `look_up`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, ROWS))


def _put_own_share(array: Any, place: NamedSharding) -> jax.Array:
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, place, lambda index: host[index])
