"""Hyperparameter search with Optuna's TPE sampler and median pruning; stored in `study.log`.

A trial's value is the validation NDCG@10 of the checkpoint that its run would test; the test split
is not used. The median pruner compares trials at their n-th validation of the phase that selects
the checkpoint. A diverged run counts as pruned, so that the sampler avoids its region.

A stopped or failed trial is retried as a new trial of the study with the same parameters and the
same run directory. Both have the same value of the attribute `run`.
"""

import dataclasses
import json
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from genrec_jax.core.config_fields import flat
from genrec_jax.core.disk import writing
from genrec_jax.core.endings import CODES
from genrec_jax.core.errors import InputError, NotFiniteError
from genrec_jax.core.jax_settings import recorded
from genrec_jax.runs.run_folder import METRIC, RunFolder
from genrec_jax.sweeps.pool import STOPPED, TrialResult
from genrec_jax.sweeps.spec import Choice, Range, Search, ends
from genrec_jax.sweeps.table import CompletedTrial
from genrec_jax.sweeps.trials import Trial, changes_of, check_folder, config_of, flags_of

log = logging.getLogger(__name__)

RUN, OUTCOME, REQUEST = "run", "outcome", "asked"  # attribute names in study.log
NOT_FINITE = CODES[NotFiniteError]


def check_search(sweep: Search, config: str, common: Sequence[str]) -> None:
    """Check the config for each end of each range, with the other ranges at their first value.

    Args:
        sweep: the search.
        config: FILE[:variant] of the trials.
        common: flags `--config.k=v` for all trials.

    Raises:
        InputError: a key is unknown or a value is invalid.
    """
    first = {key: ends(span)[0] for key, span in sweep.ranges.items()}
    for key, span in sweep.ranges.items():
        for value in ends(span):
            flags = flags_of(config, changes_of(common), sweep.base, first, {key: value})
            config_of(flags, f"ranges[{key!r}]")


class StudyFile(JournalFileBackend):
    """Optuna's journal of a study in a file.

    Raises:
        DiskError: the file cannot be written; also raised by `append_logs`.
    """

    def __init__(self, path: Path):
        self._path = path
        with writing(path):
            super().__init__(str(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries; if that fails, the file is left unchanged."""
        size = self._path.stat().st_size
        with writing(self._path):
            try:
                super().append_logs(logs)
            except OSError:
                os.truncate(self._path, size)  # a partial line would corrupt the next one
                raise


class SearchRuns:
    """A source of trials with parameters proposed by the sampler, up to the search's `trials`."""

    def __init__(
        self, sweep: Search, config: str, common: Sequence[str], workdir: Path, workers: int
    ):
        """Open the study of a search, or create it.

        Args:
            sweep: the search.
            config: FILE[:variant] of the trials.
            common: flags `--config.k=v` for all trials.
            workdir: the sweep's directory.
            workers: the number of trials that run at the same time.

        Raises:
            InputError: the workdir contains another search, or runs with other JAX settings.
        """
        self.sweep, self.config, self.common = sweep, config, common
        self.runs = workdir / "runs"
        self.failures: dict[str, str] = {}  # the run's name → its state
        self._running: dict[str, optuna.Trial] = {}  # by the run's name
        self._reported: dict[str, int] = {}  # number of validations reported to the study
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(StudyFile(workdir / "study.log"))
        self.study = optuna.create_study(
            study_name="sweep", storage=storage, direction="maximize", load_if_exists=True
        )
        self._check_same(workdir)
        known = len(self.study.trials)
        # The seed depends on the trials so far; a resumed search must not repeat its first draws.
        self.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=sweep.first_trials, seed=sweep.seed + known, constant_liar=workers > 1
        )
        self.study.pruner = optuna.pruners.MedianPruner(n_startup_trials=sweep.first_trials)
        self._enqueue_unfinished()

    def _check_same(self, workdir: Path) -> None:
        """Raise InputError if the study is of another search or has runs with other settings."""
        first = {key: ends(span)[0] for key, span in self.sweep.ranges.items()}
        flags = flags_of(self.config, changes_of(self.common), self.sweep.base, first)
        keys = flat(config_of(flags, "ranges").to_dict())
        swept = {f"config.{key}" for key in self.sweep.ranges}
        request = dataclasses.asdict(self.sweep) | {
            "config": self.config,
            "flags": self.common,
            "the config's keys": {k: v for k, v in keys.items() if k not in swept},
        }
        request = json.loads(json.dumps({k: v for k, v in request.items() if k != "trials"}))
        stored = self.study.user_attrs.get(REQUEST, request)
        if differing := [key for key in stored if request.get(key) != stored[key]]:
            raise InputError(
                f"--workdir={workdir}: found another search (differs in: "
                f"{', '.join(differing)}), expected the same one, where only `trials` may change; "
                "choose another folder"
            )
        self.study.set_user_attr(REQUEST, request)
        for name in self.latest():
            RunFolder(self.runs / name).check_jax_settings(recorded())

    def _enqueue_unfinished(self) -> None:
        """Enqueue the trials that were stopped or failed, with their parameters."""
        for name, trial in self.latest().items():
            if trial.state in (TrialState.RUNNING, TrialState.FAIL):
                if trial.state == TrialState.RUNNING:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(_params(trial), user_attrs={RUN: name})

    def latest(self) -> dict[str, FrozenTrial]:
        """Return the newest trial of the study for each run, by the run's name."""
        trials = sorted(self.study.get_trials(deepcopy=False), key=lambda trial: trial.number)
        return {trial.user_attrs[RUN]: trial for trial in trials if RUN in trial.user_attrs}

    def trial(self, name: str, params: dict[str, str | int | float | bool]) -> Trial:
        """Return the trial of a run with the given parameters."""
        flags = flags_of(self.config, changes_of(self.common), self.sweep.base, params)
        return Trial(name, name, None, flags, self.runs / name)

    def next(self) -> Trial | None:
        """Return the next proposed trial; None if all trials of the search have been started."""
        latest = self.latest()
        is_any_waiting = any(trial.state == TrialState.WAITING for trial in latest.values())
        if not is_any_waiting and len(latest) >= self.sweep.trials:
            return None
        distributions = {k: _distribution(span) for k, span in self.sweep.ranges.items()}
        proposed = self.study.ask(distributions)
        name = proposed.user_attrs.get(RUN) or f"trial-{len(latest):04d}"
        proposed.set_user_attr(RUN, name)
        self._running[name], self._reported[name] = proposed, 0
        trial = self.trial(name, proposed.params)
        try:
            check_folder(trial, name)
        except InputError as error:  # an invalid combination of values
            self.failures[name] = f"failed: {error}"
            self.study.tell(proposed, state=TrialState.FAIL)
            log.info("failed: %s", error)
            return self.next()
        log.info("%s: %s", name, ", ".join(f"{k}={v}" for k, v in proposed.params.items()))
        return trial

    def should_prune(self, trial: Trial) -> bool:
        """Return whether the median rule prunes a running trial at its latest validations."""
        running = self._running[trial.name]
        return any(running.should_prune() for _ in self._report_validations(trial))

    def _report_validations(self, trial: Trial) -> Iterator[None]:
        """Report new validations of a trial to the study, yielding after each."""
        scores = [score for _, score in trial.choosing_validations()]
        for number in range(self._reported[trial.name], len(scores)):
            self._running[trial.name].report(scores[number], number)
            self._reported[trial.name] = number + 1
            yield

    @property
    def unfinished(self) -> dict[str, str]:
        """The name of each trial that ended without a result → its state."""
        return self.failures

    def record(self, result: TrialResult) -> None:
        """Report the result of a trial to the study and log it."""
        trial, running = result.trial, self._running[result.trial.name]
        if result.code == 0:
            for _ in self._report_validations(trial):
                pass
            self.study.tell(running, trial.score())
            outcome = f"validation NDCG@10 {trial.score():.5f}"
        elif result.pruned or result.code == NOT_FINITE:
            outcome = "pruned below the median" if result.pruned else "diverged"
            running.set_user_attr(OUTCOME, outcome)
            self.study.tell(running, state=TrialState.PRUNED)
        elif result.stopped:
            outcome = STOPPED
            self.failures[trial.name] = outcome
        else:
            outcome = f"failed with exit code {result.code}: {result.reason}"
            self.study.tell(running, state=TrialState.FAIL)
            self.failures[trial.name] = outcome
        log.info("%s: %s, %.0f s", trial.name, outcome, result.seconds)

    def completed_trials(self, seconds: Mapping[str, float]) -> list[CompletedTrial]:
        """Return all trials so far, in the order in which they were first proposed.

        Args:
            seconds: the trial's name → wall time of all its attempts.
        """
        return [
            CompletedTrial(
                name,
                self.failures.get(name)
                or trial.user_attrs.get(OUTCOME)
                or trial.state.name.lower(),
                _params(trial),
                trial.value if trial.value is not None else _best_so_far(trial),
                seconds.get(name, 0.0),
            )
            for name, trial in sorted(self.latest().items())
        ]

    def best_command(self) -> str:
        """Return a line with the best trial and its flags; "" if no trial has finished."""
        finished = [
            (trial.value, name)
            for name, trial in self.latest().items()
            if trial.state == TrialState.COMPLETE and trial.value is not None
        ]
        if not finished:
            return ""
        score, name = max(finished)
        params = self.latest()[name].params
        flags = flags_of(self.config, changes_of(self.common), self.sweep.base, params)
        return f"best: {name}, validation {METRIC} {score:.5f}: {shlex.join(flags)}"


def _params(trial: FrozenTrial) -> dict[str, str | int | float | bool]:
    """Return a trial's parameters; for one in the queue, those that it was enqueued with."""
    return trial.params or trial.system_attrs.get("fixed_params", {})


def _best_so_far(trial: FrozenTrial) -> float | None:
    """Return the best validation score of a trial without a final one; None if it has none."""
    return max(trial.intermediate_values.values(), default=None)


def _distribution(span: Range | Choice) -> BaseDistribution:
    if isinstance(span, Choice):
        return CategoricalDistribution(span.values)
    if isinstance(span.low, int) and isinstance(span.high, int):
        return IntDistribution(span.low, span.high, log=span.log)
    return FloatDistribution(span.low, span.high, log=span.log)
