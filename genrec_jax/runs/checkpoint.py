"""Checkpoints of a run: the only module that imports orbax.

A checkpoint is a folder `checkpoints/STEP`: `params` and `opt_state`, which load apart, and
`checkpoint.json` with where the run stands and the checksums of all files. It is written under
another name by a thread beside training, and gets its own when everything is on the disk, so that
a folder with a number for a name is whole, or was damaged since. Of several processes each writes
what its devices hold, and the first does the rest. The latest ones are kept to go on
from, and with each the best by validation that it knows, to evaluate and serve.
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
from genrec_jax.core.processes import by_the_first, count, is_first, once, together
from genrec_jax.models.contract import Params
from genrec_jax.runs.checksums import Sums, check_sums, sums_of
from genrec_jax.runs.train_state import TrainState

log = logging.getLogger(__name__)

FACTS = "checkpoint.json"
PARTS = ("params", "opt_state")
KEEP = 2  # the latest: one to go on from, and one more should that be damaged
WRITING, DELETING, DAMAGED = ".writing", ".deleting", ".damaged"


class Checkpoints:
    """Those of one run folder. Use it as a context manager: leaving it waits for the last save.

    `clean`, `save`, `amend` and `newest_whole` are for the process that holds the run's lock.
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
        # One that leaves for a reason of its own must not wait for the others.
        is_shared = count() == 1 or isinstance(error, None | Stopped | NotFiniteError | InputError)
        try:
            if is_shared:
                self.wait()
        finally:
            self._writer.shutdown(wait=is_shared)

    # ------------------------------------------------------------------ what is there

    def steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def best(self) -> int:
        """The step with the highest validation score, as the latest checkpoint knows it."""
        self.wait()
        return self._best()

    @by_the_first
    def _best(self) -> int:
        steps = self.steps()
        for step in reversed(steps):
            try:
                best = self.progress(step)["best_step"]
            except InputError as error:
                log.warning("WARNING: %s; which step was best says the one before", error)
                continue
            return step if best is None else best
        raise InputError(
            f"{self._folder}: holds no checkpoint "
            + ("that can be read, only damaged ones" if steps else "yet")
        )

    @by_the_first
    def newest_whole(self) -> int | None:
        """The step to go on from; those after it, which are damaged, are set aside, and it is said.

        A checkpoint whose best by validation is damaged cannot be gone on from: the run could not
        be finished.

        Raises:
            InputError: there are checkpoints, and none is whole.
        """
        faults: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                self.check(step, PARTS)
                best = self.progress(step)["best_step"]
                if best not in (None, step):
                    self.check(best, PARTS[:1])
            except InputError as error:
                faults[step] = str(error)
                continue
            self._set_aside(faults, step)
            return step
        if faults:
            raise InputError(
                f"{self._folder}: none of the checkpoints is whole, so that the run cannot go on "
                f"({'; '.join(faults.values())}); put back a copy of them, or give another workdir"
            )
        return None

    def check(self, step: int, parts: tuple[str, ...]) -> None:
        """Raise InputError if a file of the parts is not what was written."""
        self._check_step(step)
        folder = self._folder / str(step)
        check_sums(folder, self._facts(step)["files"], parts)

    # ------------------------------------------------------------------ writing

    @by_the_first
    def clean(self) -> None:
        """Remove what a process that was killed left half written or half deleted."""
        for kind in (WRITING, DELETING):
            for path in self._folder.glob(f"*{kind}*"):
                shutil.rmtree(path)

    def save(self, step: int, state: TrainState, progress: dict[str, Any]) -> None:
        """Returns as soon as the state is copied; waits first for the save before.

        Args:
            step: of the run.
            state: to go on from; it may be donated afterwards.
            progress: any JSON, with the step that is best so far as `best_step`.

        Raises:
            NotFiniteError: the state is not finite. Nothing is saved.
            DiskError: this save or the one before failed. What was whole before is whole still.
        """
        self.wait()
        if not bool(_all_finite((state.params, state.opt_state))):
            raise NotFiniteError(f"the parameters or the optimizer's state after step {step}")
        # A name of its own: threads of a save that failed may write to theirs a little longer.
        self._drafts += 1
        draft = self._folder / f"{step}{WRITING}{self._drafts}"
        with self._written(step):
            once(lambda: self._folder.mkdir(parents=True, exist_ok=True))
            copied = ocp.save_checkpointables_async(
                str(draft.absolute()), {"params": state.params, "opt_state": state.opt_state}
            )
        self._saving = step, self._writer.submit(self._publish, copied, draft, step, progress)

    def amend(self, step: int, progress: dict[str, Any]) -> None:
        """Replace the progress of a checkpoint: its validation is through."""
        self.wait()
        with self._written(step):
            once(lambda: self._amend(step, progress))

    def _amend(self, step: int, progress: dict[str, Any]) -> None:
        facts = self._facts(step)
        _write_facts(self._folder / str(step), progress, facts["files"])

    def wait(self) -> None:
        """For the running save, if there is one; raises DiskError if it failed."""
        if self._saving is None:
            return
        (step, future), self._saving = self._saving, None
        with self._written(step):
            together(future.result)

    def _publish(self, copied: Any, draft: Path, step: int, progress: dict[str, Any]) -> None:
        """In the thread: everything on the disk, then the name, then what is not kept goes."""
        copied.result()
        if not is_first():
            return
        _write_facts(draft, progress, sums_of(draft))
        os.rename(draft, self._folder / str(step))
        _sync(self._folder)
        latest = self.steps()[-self._keep :]
        try:
            kept = {*latest, *(self.progress(step)["best_step"] for step in latest)}
        except InputError:  # a damaged one: what it counts on is not known
            return
        for old in set(self.steps()) - kept:
            going = self._folder / f"{old}{DELETING}"
            os.rename(self._folder / str(old), going)
            shutil.rmtree(going)

    @contextlib.contextmanager
    def _written(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tensorstore and orbax raise anything on a full disk
            with contextlib.suppress(OSError):
                self.clean()  # so that a full disk has room again
            there = ", ".join(map(str, self.steps())) or "none"
            raise DiskError(
                f"{self._folder / str(step)}: cannot be written: {_short(error)}; "
                f"checkpoints that are there: {there}"
            ) from error

    def _set_aside(self, faults: dict[int, str], used: int) -> None:
        for step, fault in faults.items():
            aside = self._folder / f"{step}{DAMAGED}"
            log.warning(
                "WARNING: the checkpoint of step %d is damaged and set aside as %s: %s; the one of "
                "step %d is used",
                *(step, aside.name, fault, used),
            )
            if aside.exists():
                shutil.rmtree(aside)
            os.rename(self._folder / str(step), aside)

    # ------------------------------------------------------------------ reading

    def progress(self, step: int) -> dict[str, Any]:
        return self._facts(step)["run"]

    def params(self, step: int, like: Params) -> Params:
        """The parameters alone of a checkpoint that is whole, as `like` in shape and placement."""
        self.wait()
        once(lambda: self._check_to_use(step))
        together(lambda: self._check_shapes(step, like))
        return self._load(step, {"params": _placed(like)})["params"]

    def _check_to_use(self, step: int) -> None:
        try:
            self.check(step, PARTS[:1])
        except InputError as error:
            others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
            raise InputError(
                f"the checkpoint of step {step} is not whole: {error}; of other steps: {others}"
            ) from None

    def state(self, step: int, like: TrainState) -> TrainState:
        """Parameters and optimizer of a checkpoint that `newest_whole` found.

        `like.step` stands for the step of the phase; the rest says shapes and placement, which
        need not be that of the run that saved.
        """
        together(lambda: self._check_shapes(step, like.params))
        wanted = {"params": like.params, "opt_state": like.opt_state}
        loaded = self._load(step, _placed(wanted))
        return TrainState(like.step, loaded["params"], loaded["opt_state"])

    def _facts(self, step: int) -> dict[str, Any]:
        """How far the run has come (`run`) and the checksums (`files`)."""
        path = self._folder / str(step) / FACTS
        try:
            facts = json.loads(path.read_text())
            if facts.pop("sha256") != _digest(facts):
                raise ValueError("it does not have its own sha256")
            return facts
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{path}: cannot be restored: {error}") from None

    def _load(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        with self._reading(step):
            return ocp.load_checkpointables(self._path(step), like)

    def _path(self, step: int) -> str:
        return str((self._folder / str(step)).absolute())

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tensorstore and orbax raise anything on a damaged file
            raise InputError(
                f"{self._folder / str(step)}: cannot be restored: {_short(error)}"
            ) from error

    def _check_step(self, step: int) -> None:
        if step not in self.steps():
            kept = ", ".join(map(str, self.steps())) or "none"
            raise InputError(f"{self._folder}: no checkpoint of step {step}, found: {kept}")

    def _check_shapes(self, step: int, like: Params) -> None:
        self._check_step(step)
        with self._reading(step):
            saved = ocp.checkpointables_metadata(self._path(step)).metadata["params"]
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


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    """One program and one number, however many arrays."""
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()


def _write_facts(folder: Path, run: dict[str, Any], files: Sums) -> None:
    """There whole or not at all, and on the disk."""
    facts = {"run": run, "files": files}
    draft = folder / f"{FACTS}.part"
    with draft.open("w", encoding="utf-8") as file:
        json.dump({**facts, "sha256": _digest(facts)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / FACTS)
    _sync(folder)


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _sync(folder: Path) -> None:
    """The names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short(error: Exception) -> str:
    """In one line. tensorstore names the file at length, and ends with what the system said."""
    text = " ".join(str(error).split())
    return text if len(text) <= 250 else f"{text[:50]} … {text[-200:]}"


def _placed(like: Any) -> Any:
    """Shapes to load by; without a placement orbax would ask for the devices of the saving run."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or here), like
    )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(str(getattr(k, "key", k)) for k in path): tuple(leaf.shape)
        for path, leaf in leaves
    }
