"""A trial of a sweep, which is an ordinary run, and the results read from its directory."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_jax.core.errors import InputError
from genrec_jax.core.jax_settings import recorded
from genrec_jax.evaluation.ensemble_run import RESULTS as ENSEMBLE_RESULTS
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.config_source import run_config
from genrec_jax.runs.run_folder import METRIC, VALIDATION, RunFolder
from genrec_jax.runs.run_format import RESULT_INDEPENDENT_KEYS
from genrec_jax.sweeps.spec import Value


@dataclass(frozen=True)
class Trial:
    """A run of a sweep: its name, flags and directory."""

    name: str  # name of the run's directory
    label: str  # label of the setting, for display
    seed: int | None  # seed in an ablation; None in a search
    flags: tuple[str, ...]  # --config=… --config.k=v …
    path: Path  # the run's directory
    ensemble: bool = False  # whether to evaluate the ensemble with the kNN too

    @property
    def commands(self) -> list[list[str]]:
        """The command lines of the trial; each resumes or skips what an earlier attempt did."""
        train = [*self.flags, f"--workdir={self.path}"]
        commands = [[sys.executable, "-m", "genrec_jax.main", *train]]
        if self.ensemble:
            commands.append(
                [sys.executable, "-m", "genrec_jax", "ensemble", f"--workdir={self.path}"]
            )
        return commands

    @property
    def is_finished(self) -> bool:
        """Whether the run has its test result, and its ensemble result if there is one to make."""
        done = RunFolder(self.path).read_results() is not None
        return done and (not self.ensemble or self.ensemble_result is not None)

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of results.json; None if the run is not finished."""
        return RunFolder(self.path).read_results()

    @property
    def ensemble_result(self) -> dict[str, Any] | None:
        """The result of the ensemble with the kNN; None if there is none.

        A result with other `evaluate` settings than the run's, or with a weight-tuning run, does
        not count.
        """
        path = self.path / ENSEMBLE_RESULTS
        if not path.is_file():
            return None
        result = json.loads(path.read_text())
        evaluate = dataclasses.asdict(RunFolder(self.path).read_config().evaluate)
        is_current = result.get("evaluate") == evaluate and result.get("chooser") is None
        return result if is_current else None

    @property
    def has_outdated_ensemble(self) -> bool:
        """Whether there is an ensemble result with other settings, which will be replaced."""
        return (
            self.ensemble
            and (self.path / ENSEMBLE_RESULTS).is_file()
            and self.ensemble_result is None
        )

    def validations(self) -> list[tuple[int, float]]:
        """Return (step, NDCG@10) of each validation so far, ordered by step."""
        return _validations(self._metric_lines())

    def choosing_validations(self) -> list[tuple[int, float]]:
        """Return the validations that select the checkpoint.

        These are the validations during finetuning, or during pretraining without finetuning.

        Returns:
            (step, NDCG@10) pairs, ordered by step.
        """
        lines = self._metric_lines()
        validations = _validations(lines)
        if not validations or RunFolder(self.path).read_config().finetune.epochs == 0:
            return validations
        pretraining = [line["step"] for line in lines if line["phase"] == "pretrain"]
        return [pair for pair in validations if pair[0] > max(pretraining, default=0)]

    def _metric_lines(self) -> list[dict[str, Any]]:
        """Return the complete lines of metrics.jsonl; the last one may still be being written."""
        path = RunFolder(self.path).metrics
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def score(self) -> float:
        """Return the validation NDCG@10 of the tested checkpoint; the run must be finished."""
        result = self.result
        assert result is not None
        return dict(self.validations())[result["counts"]["best_step"]]


def _validations(lines: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    scores = {line["step"]: line[METRIC] for line in lines if line["phase"] == VALIDATION}
    return sorted(scores.items())


def changes_of(common: Sequence[str]) -> dict[str, Value]:
    """Return key → value of flags `--config.k=v`; the last flag of a key takes precedence."""
    pairs = (flag.removeprefix("--config.").partition("=") for flag in common)
    return {key: value for key, _, value in pairs}


def flags_of(config: str, *changes: Mapping[str, Value]) -> tuple[str, ...]:
    """Return --config=FILE and one flag for each changed key.

    Args:
        config: FILE[:variant].
        changes: mappings of key → value; the last one with a key takes precedence.
    """
    given: dict[str, str] = {}
    for change in changes:
        given |= {f"--config.{key}": str(value) for key, value in change.items()}
    return (f"--config={config}", *(f"{key}={value}" for key, value in given.items()))


def config_of(flags: Sequence[str], where: str) -> RunConfig:
    """Return the config of a run with these flags, checked as the run would check it.

    Args:
        flags: --config=FILE and --config.k=v flags.
        where: the prefix of error messages, such as `settings['no dropout']`.

    Raises:
        InputError: the config is invalid.
    """
    try:
        return run_config(["sweep", *flags])
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def check_folder(trial: Trial, where: str) -> None:
    """Check that a trial's flags are valid and that its directory contains no other run.

    A run that was started with other JAX settings counts as another run even if it is finished,
    because a table must not compare results that were computed with different settings.

    Args:
        trial: the trial.
        where: the prefix of error messages about the flags.

    Raises:
        InputError: a flag is invalid, or the directory contains another run.
    """
    config = config_of(trial.flags, where)
    folder = RunFolder(trial.path)
    folder.check_usable(config, ignored=RESULT_INDEPENDENT_KEYS)
    folder.check_jax_settings(recorded())
