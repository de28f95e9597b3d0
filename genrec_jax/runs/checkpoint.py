"""Checkpoints of a run: the only module that imports orbax.

A checkpoint is a folder `checkpoints/STEP`. It contains `params` and `opt_state`, which can be
loaded separately, and `checkpoint.json`, which contains the run's progress and the checksums of
all files. A background thread writes it under a temporary name and renames it when every file has
been flushed to disk. A folder named by a number is therefore complete, unless it was damaged later.
With several processes, each writes the arrays on its devices, and process 0 writes the other files.
The latest checkpoints are kept for resuming. For each of these, the best checkpoint by validation
that it refers to is kept too, for evaluation and serving.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from genrec_jax.core.errors import DiskError, InputError, NotFiniteError, Stopped
from genrec_jax.core.processes import barrier, count, is_process_0, on_process_0, run_on_process_0
from genrec_jax.models.contract import Params
from genrec_jax.runs.checksums import Checksums, check_files, file_checksums
from genrec_jax.runs.train_state import TrainState

log = logging.getLogger(__name__)

METADATA = "checkpoint.json"
PARTS = ("params", "opt_state")
KEEP = 2  # the latest checkpoint, and the one before it in case the latest is damaged
WRITING, DELETING, DAMAGED = ".writing", ".deleting", ".damaged"


class Checkpoints:
    """The checkpoints of one run. As a context manager, it waits for the last save on exit.

    Only the process that holds the run's lock may call `clean`, `save`, `amend` and
    `newest_intact`.

    Args:
        folder: the run's `checkpoints` folder; it may not exist yet.
        keep: the number of latest checkpoints to keep, at least 1.
    """

    def __init__(self, folder: Path, keep: int = KEEP):
        self._folder = folder
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: tuple[int, Future[None]] | None = None
        self._drafts = 0

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error in this process alone, the other processes never reach the barrier.
        is_shared = count() == 1 or isinstance(error, None | Stopped | NotFiniteError | InputError)
        try:
            if is_shared:
                self.wait()
        finally:
            self._writer.shutdown(wait=is_shared)

    # ------------------------------------------------------------------ finding

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, in increasing order."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def best(self) -> int:
        """Return the step with the best validation score, as the latest checkpoint records it.

        Raises:
            InputError: there is no checkpoint, or none that can be read.
        """
        self.wait()
        return self._best()

    @on_process_0
    def _best(self) -> int:
        steps = self.steps()
        for step in reversed(steps):
            try:
                best = self.progress(step)["best_step"]
            except InputError as error:
                log.warning(
                    "WARNING: %s; reading the best step from the previous checkpoint", error
                )
                continue
            return step if best is None else best
        raise InputError(
            f"{self._folder}: found "
            + ("only damaged checkpoints" if steps else "no checkpoint")
            + ", expected at least one that can be read"
        )

    @on_process_0
    def newest_intact(self) -> int | None:
        """Find the newest intact checkpoint, and quarantine the damaged ones after it.

        A checkpoint is intact only if the best checkpoint that it refers to is intact too, since
        the resumed run could not be evaluated without it.

        Returns:
            The step to resume from; None if there are no checkpoints.

        Raises:
            InputError: all checkpoints are damaged.
        """
        errors: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                self.check(step, PARTS)
                best = self.progress(step)["best_step"]
                if best not in (None, step):
                    self.check(best, PARTS[:1])
            except InputError as error:
                errors[step] = str(error)
                continue
            self._quarantine(errors, step)
            return step
        if errors:
            raise InputError(
                f"{self._folder}: found only damaged checkpoints ({'; '.join(errors.values())}), "
                "expected at least one that is intact; restore one from a copy, or choose another "
                "--workdir"
            )
        return None

    def check(self, step: int, parts: tuple[str, ...]) -> None:
        """Check that the files of a checkpoint are unchanged since they were written.

        Args:
            step: the checkpoint's step.
            parts: the parts to check, of `PARTS`; `checkpoint.json` is always checked.

        Raises:
            InputError: there is no such checkpoint, or a file is missing or has changed.
        """
        self._check_step(step)
        folder = self._folder / str(step)
        check_files(folder, self._metadata(step)["files"], parts)

    # ------------------------------------------------------------------ writing

    @on_process_0
    def clean(self) -> None:
        """Remove checkpoints that a killed process left partially written or partially deleted."""
        for kind in (WRITING, DELETING):
            for path in self._folder.glob(f"*{kind}*"):
                shutil.rmtree(path)

    def save(self, step: int, state: TrainState, progress: dict[str, Any]) -> None:
        """Save a checkpoint in the background, after the previous save has ended.

        The call returns as soon as the state has been copied.

        Args:
            step: the step of the run, which becomes the checkpoint's name.
            state: the training state; its buffers may be donated after the call.
            progress: the run's progress as JSON values; `best_step` is the step with the best
                validation score so far, or None.

        Raises:
            NotFiniteError: the state contains NaN or infinity; nothing is saved.
            DiskError: this save or the previous one failed; complete checkpoints are unaffected.
        """
        self.wait()
        if not bool(_all_finite((state.params, state.opt_state))):
            raise NotFiniteError(f"the parameters or the optimizer's state after step {step}")
        # The name is unique because threads of a failed save may still be writing to its folder.
        self._drafts += 1
        draft = self._folder / f"{step}{WRITING}{self._drafts}"
        with self._write_errors(step):
            run_on_process_0(lambda: self._folder.mkdir(parents=True, exist_ok=True))
            response = ocp.save_checkpointables_async(
                str(draft.absolute()), {"params": state.params, "opt_state": state.opt_state}
            )
        self._saving = step, self._writer.submit(self._publish, response, draft, step, progress)

    def amend(self, step: int, progress: dict[str, Any]) -> None:
        """Replace the progress of a checkpoint, once its validation has finished.

        Args:
            step: the checkpoint's step.
            progress: the new progress, as for `save`.

        Raises:
            DiskError: the progress cannot be written, or the previous save failed.
        """
        self.wait()
        with self._write_errors(step):
            run_on_process_0(lambda: self._amend(step, progress))

    def _amend(self, step: int, progress: dict[str, Any]) -> None:
        metadata = self._metadata(step)
        _write_metadata(self._folder / str(step), progress, metadata["files"])

    def wait(self) -> None:
        """Wait until the current save has ended, if there is one.

        Raises:
            DiskError: the save failed.
        """
        if self._saving is None:
            return
        (step, future), self._saving = self._saving, None
        with self._write_errors(step):
            barrier(future.result)

    def _publish(self, response: Any, draft: Path, step: int, progress: dict[str, Any]) -> None:
        """Flush a checkpoint to disk, rename it, and delete outdated ones; runs in the thread."""
        response.result()
        if not is_process_0():
            return
        _write_metadata(draft, progress, file_checksums(draft))
        os.rename(draft, self._folder / str(step))
        _sync(self._folder)
        latest = self.steps()[-self._keep :]
        try:
            kept = {*latest, *(self.progress(step)["best_step"] for step in latest)}
        except InputError:  # a damaged checkpoint: which best checkpoint it needs is unknown
            return
        for old in set(self.steps()) - kept:
            deleting = self._folder / f"{old}{DELETING}"
            os.rename(self._folder / str(old), deleting)
            shutil.rmtree(deleting)

    @contextlib.contextmanager
    def _write_errors(self, step: int) -> Iterator[None]:
        """Turn any error inside the block into a DiskError."""
        try:
            yield
        except Exception as error:  # tensorstore and orbax raise anything on a full disk
            with contextlib.suppress(OSError):
                self.clean()  # to make room on a full disk
            existing = ", ".join(map(str, self.steps())) or "none"
            raise DiskError(
                f"{self._folder / str(step)}: cannot be written: {_short(error)}; "
                f"existing checkpoints: {existing}"
            ) from error

    def _quarantine(self, errors: dict[int, str], used: int) -> None:
        """Rename damaged checkpoints and log why.

        Args:
            errors: the step of each damaged checkpoint → its error.
            used: the step of the checkpoint that is used instead.
        """
        for step, error in errors.items():
            quarantine = self._folder / f"{step}{DAMAGED}"
            log.warning(
                "WARNING: the checkpoint of step %d is damaged and was quarantined as %s: %s; "
                "using the checkpoint of step %d",
                *(step, quarantine.name, error, used),
            )
            if quarantine.exists():
                shutil.rmtree(quarantine)
            os.rename(self._folder / str(step), quarantine)

    # ------------------------------------------------------------------ reading

    def progress(self, step: int) -> dict[str, Any]:
        """Return the progress that was saved with a checkpoint.

        Raises:
            InputError: its checkpoint.json is missing or damaged.
        """
        return self._metadata(step)["run"]

    def params(self, step: int, like: Params) -> Params:
        """Load the parameters of a checkpoint, without its optimizer state.

        Args:
            step: the checkpoint's step.
            like: arrays or abstract arrays with the expected shapes and placement.

        Raises:
            InputError: there is no such checkpoint, it is damaged, or its shapes differ.
        """
        self.wait()
        run_on_process_0(lambda: self._check_params(step))
        barrier(lambda: self._check_shapes(step, like))
        return self._load(step, {"params": _with_placement(like)})["params"]

    def _check_params(self, step: int) -> None:
        try:
            self.check(step, PARTS[:1])
        except InputError as error:
            others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
            raise InputError(
                f"the checkpoint of step {step} is damaged: {error}; checkpoints of other steps: "
                f"{others}"
            ) from None

    def state(self, step: int, like: TrainState) -> TrainState:
        """Load the parameters and the optimizer state of a checkpoint that `newest_intact` found.

        Args:
            step: the checkpoint's step, counted over the whole run.
            like: a state with the expected shapes and placement, which may differ from the
                placement at saving; its `step`, counted within the phase, is returned unchanged.

        Raises:
            InputError: the checkpoint's shapes differ, or it cannot be read.
        """
        barrier(lambda: self._check_shapes(step, like.params))
        expected = {"params": like.params, "opt_state": like.opt_state}
        loaded = self._load(step, _with_placement(expected))
        return TrainState(like.step, loaded["params"], loaded["opt_state"])

    def _metadata(self, step: int) -> dict[str, Any]:
        """Read a checkpoint.json: the run's progress (`run`) and the checksums (`files`)."""
        path = self._folder / str(step) / METADATA
        try:
            metadata = json.loads(path.read_text())
            if metadata.pop("sha256") != _digest(metadata):
                raise ValueError("its content does not match its sha256")
            return metadata
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{path}: cannot be restored: {error}") from None

    def _load(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        with self._read_errors(step):
            return ocp.load_checkpointables(self._path(step), like)

    def _path(self, step: int) -> str:
        return str((self._folder / str(step)).absolute())

    @contextlib.contextmanager
    def _read_errors(self, step: int) -> Iterator[None]:
        """Turn any error inside the block into an InputError."""
        try:
            yield
        except Exception as error:  # tensorstore and orbax raise anything on a damaged file
            raise InputError(
                f"{self._folder / str(step)}: cannot be restored: {_short(error)}"
            ) from error

    def _check_step(self, step: int) -> None:
        if step not in self.steps():
            existing = ", ".join(map(str, self.steps())) or "none"
            raise InputError(f"{self._folder}: no checkpoint of step {step}, found: {existing}")

    def _check_shapes(self, step: int, like: Params) -> None:
        self._check_step(step)
        with self._read_errors(step):
            saved = ocp.checkpointables_metadata(self._path(step)).metadata["params"]
            found = _shapes(saved)
            if not found:  # orbax only warns if it cannot read its metadata
                raise ValueError("its array metadata cannot be read")
        expected = _shapes(like)
        differing = [
            f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
        if differing:
            raise InputError(
                f"{self._folder / str(step)}: the checkpoint is of another model: "
                + "; ".join(differing[:5])
                + (f"; and {len(differing) - 5} more" if len(differing) > 5 else "")
            )


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    """Return whether all values of a tree are finite, in one program for all arrays."""
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()


def _write_metadata(folder: Path, run: dict[str, Any], files: Checksums) -> None:
    """Write checkpoint.json atomically and flush it to disk."""
    metadata = {"run": run, "files": files}
    draft = folder / f"{METADATA}.part"
    with draft.open("w", encoding="utf-8") as file:
        json.dump({**metadata, "sha256": _digest(metadata)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / METADATA)
    _sync(folder)


def _digest(metadata: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def _sync(folder: Path) -> None:
    """Flush the directory entries of a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short(error: Exception) -> str:
    """Return an error's text as one short line.

    tensorstore's messages start with a long file name and end with the system's error.
    """
    text = " ".join(str(error).split())
    return text if len(text) <= 250 else f"{text[:50]} … {text[-200:]}"


def _with_placement(like: Any) -> Any:
    """Return abstract arrays with a placement; orbax would otherwise need the saving devices."""
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or default), like
    )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array by its path in the tree, such as `encoder/kernel`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(str(getattr(k, "key", k)) for k in path): tuple(leaf.shape)
        for path, leaf in leaves
    }
