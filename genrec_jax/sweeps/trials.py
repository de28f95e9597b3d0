"""One trial of a sweep: an ordinary run in a folder of its own, and what that folder says of it."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_jax.core.errors import InputError
from genrec_jax.core.jax_settings import recorded
from genrec_jax.evaluation.ensemble_run import RESULTS as MIX_RESULTS
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.config_source import run_config
from genrec_jax.runs.run_folder import METRIC, VALIDATION, RunFolder
from genrec_jax.runs.run_format import SAME_RESULT
from genrec_jax.sweeps.spec import Value


@dataclass(frozen=True)
class Trial:
    """A run, the flags that make it, and where its folder is."""

    name: str  # of its folder
    label: str  # of its setting, for people
    seed: int | None  # of an ablation
    flags: tuple[str, ...]  # --config=… --config.k=v …
    path: Path
    mix: bool = False

    @property
    def commands(self) -> list[list[str]]:
        """What it takes to finish it; each does nothing, or goes on, where it was run before."""
        train = [*self.flags, f"--workdir={self.path}"]
        commands = [[sys.executable, "-m", "genrec_jax.main", *train]]
        if self.mix:
            commands.append(
                [sys.executable, "-m", "genrec_jax", "ensemble", f"--workdir={self.path}"]
            )
        return commands

    @property
    def is_finished(self) -> bool:
        done = RunFolder(self.path).read_results() is not None
        return done and (not self.mix or self.mixed is not None)

    @property
    def result(self) -> dict[str, Any] | None:
        """results.json, of a run that is trained and tested."""
        return RunFolder(self.path).read_results()

    @property
    def mixed(self) -> dict[str, Any] | None:
        """The mixed lists' result, of a run that was mixed as its own config evaluates.

        One that somebody mixed or chose in another way since does not count: it is mixed again.
        """
        path = self.path / MIX_RESULTS
        if not path.is_file():
            return None
        result = json.loads(path.read_text())
        own = dataclasses.asdict(RunFolder(self.path).read_config().evaluate)
        is_own = result.get("evaluate") == own and result.get("chooser") is None
        return result if is_own else None

    @property
    def has_another_mix(self) -> bool:
        """One that will be written over."""
        return self.mix and (self.path / MIX_RESULTS).is_file() and self.mixed is None

    def validations(self) -> list[tuple[int, float]]:
        """(step, NDCG@10) of each validation so far, in the order of the steps."""
        return _validations(self._figures())

    def choosing_validations(self) -> list[tuple[int, float]]:
        """Those of finetuning, which choose the checkpoint; of pretraining where that is all."""
        lines = self._figures()
        found = _validations(lines)
        if not found or RunFolder(self.path).read_config().finetune.epochs == 0:
            return found
        pretraining = [one["step"] for one in lines if one["phase"] == "pretrain"]
        return [one for one in found if one[0] > max(pretraining, default=0)]

    def _figures(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that is being written is left out."""
        path = RunFolder(self.path).metrics
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def score(self) -> float:
        """The validation NDCG@10 of the checkpoint that was tested; of a finished run."""
        result = self.result
        assert result is not None
        return dict(self.validations())[result["counts"]["best_step"]]


def _validations(lines: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    found = {one["step"]: one[METRIC] for one in lines if one["phase"] == VALIDATION}
    return sorted(found.items())


def changes_of(common: Sequence[str]) -> dict[str, Value]:
    """Key → value of flags `--config.k=v`; of several with a key the last counts."""
    pairs = (flag.removeprefix("--config.").partition("=") for flag in common)
    return {key: value for key, _, value in pairs}


def flags_of(config: str, *changes: Mapping[str, Value]) -> tuple[str, ...]:
    """--config=FILE and a flag for each key; of several changes to a key the last counts.

    Args:
        config: FILE[:variant].
        changes: key → value.
    """
    given: dict[str, str] = {}
    for change in changes:
        given |= {f"--config.{key}": str(value) for key, value in change.items()}
    return (f"--config={config}", *(f"{key}={value}" for key, value in given.items()))


def config_of(flags: Sequence[str], where: str) -> RunConfig:
    """The config that a run with these flags has, checked as that run would.

    Raises:
        InputError: with `where` in front.
    """
    try:
        return run_config(["sweep", *flags])
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def check_folder(trial: Trial, where: str) -> None:
    """Raise InputError if the trial's flags are wrong or its folder holds another run.

    A run that was started under other JAX settings is another one, even if it is finished: one
    table would compare numbers that were computed in different ways.
    """
    config = config_of(trial.flags, where)
    folder = RunFolder(trial.path)
    folder.check_usable(config, ignored=SAME_RESULT)
    folder.check_jax_settings(recorded())
