"""Checkpoints of a run: the only module that imports orbax.

A checkpoint is a folder `checkpoints/STEP` with three parts that load apart: `params`,
`opt_state`, and `progress` (where the run stands and which step was best). The latest is kept to
go on from, and the best by validation to evaluate and serve.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from genrec_jax.errors import InputError
from genrec_jax.model.genrec import Params
from genrec_jax.training.step import TrainState

METRIC = "NDCG@10"


class Checkpoints:
    """Those of one run folder. Use it as a context manager."""

    def __init__(self, folder: Path):
        keep: Any = ocp.training.preservation_policies  # its annotations contradict each other
        self._folder = folder
        self._orbax = ocp.training.Checkpointer(
            str(folder.absolute()),
            preservation_policy=keep.AnyPreservationPolicy(
                [
                    keep.LatestN(1),
                    keep.BestN(
                        get_metric_fn=lambda metrics: metrics[METRIC],
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._orbax.close()

    def steps(self) -> list[int]:
        return sorted(checkpoint.step for checkpoint in self._orbax.checkpoints)

    def best(self) -> int:
        """The step with the highest validation score."""
        steps = self.steps()
        if not steps:
            raise InputError(f"{self._folder}: holds no checkpoint yet")
        best = self.progress(steps[-1])["best_step"]
        return steps[-1] if best is None else best

    def save(
        self, step: int, state: TrainState, progress: dict[str, Any], new_best: float | None
    ) -> None:
        """Blocks until it is on disk.

        Args:
            step: of the run.
            state: to go on from.
            progress: any JSON, with the step that is best so far as `best_step`.
            new_best: the score if it beats all before; orbax alone would take a tie for better.
        """
        self._orbax.save_checkpointables(
            step,
            {"params": state.params, "opt_state": state.opt_state, "progress": progress},
            metrics=None if new_best is None else {METRIC: new_best},
            force=True,
        )

    def progress(self, step: int) -> dict[str, Any]:
        return self._load(step, {"progress": None})["progress"]

    def params(self, step: int, like: Params) -> Params:
        """The parameters alone, in the shapes of `like`."""
        self._check_shapes(step, like)
        return self._load(step, {"params": _on_this_device(like)})["params"]

    def state(self, step: int, like: TrainState) -> TrainState:
        """Parameters and optimizer, with `like.step` for the step of the phase."""
        self._check_shapes(step, like.params)
        wanted = {"params": like.params, "opt_state": like.opt_state}
        loaded = self._load(step, _on_this_device(wanted))
        return TrainState(like.step, loaded["params"], loaded["opt_state"])

    def _load(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        self._check_step(step)
        with self._reading(step):
            return self._orbax.load_checkpointables(step, like)

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tensorstore and orbax raise anything on a damaged file
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self._folder / str(step)}: cannot be restored: {reason}") from error

    def _check_step(self, step: int) -> None:
        if step not in self.steps():
            kept = ", ".join(map(str, self.steps())) or "none"
            raise InputError(f"{self._folder}: no checkpoint of step {step}, found: {kept}")

    def _check_shapes(self, step: int, like: Params) -> None:
        self._check_step(step)
        with self._reading(step):
            saved = self._orbax.checkpointables_metadata(step).metadata["params"]
            found = _shapes(saved)
            if not found:  # orbax only warns where it cannot read what it wrote
                raise ValueError("its list of arrays cannot be read")
        expected = _shapes(like)
        wrong = [
            f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
        if wrong:
            raise InputError(
                f"{self._folder / str(step)}: a checkpoint of another model: {'; '.join(wrong[:5])}"
                + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            )


def _on_this_device(like: Any) -> Any:
    """Shapes to load by; without a placement orbax would ask for the devices of the saving run."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), like)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(str(getattr(k, "key", k)) for k in path): tuple(leaf.shape)
        for path, leaf in leaves
    }
