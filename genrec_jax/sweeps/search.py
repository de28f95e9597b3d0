"""Optuna's TPE over ranges of keys, cut by the median rule; all it knows is in `study.log`.

A trial's value is the validation NDCG@10 of the checkpoint that its run would test; the test split
plays no part. The median rule compares trials at their n-th validation of the phase that chooses
the checkpoint. A run whose loss is not finite counts as cut: the sampler learns to keep away from
there.

A trial that was stopped or failed is taken up again, with its parameters and its run's folder, as a
new trial of the study; `run`, an attribute of both, says that they are one.
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
from genrec_jax.sweeps.pool import Ended
from genrec_jax.sweeps.spec import Choice, Range, Search, ends
from genrec_jax.sweeps.table import Tried
from genrec_jax.sweeps.trials import Trial, changes_of, check_folder, config_of, flags_of

log = logging.getLogger(__name__)

RUN, OUTCOME, ASKED = "run", "outcome", "asked"  # names of Optuna's attributes
NOT_FINITE = CODES[NotFiniteError]


def check_search(sweep: Search, config: str, common: Sequence[str]) -> None:
    """Raise InputError for a key or a value that cannot be, the others at their first."""
    first = {key: ends(span)[0] for key, span in sweep.ranges.items()}
    for key, span in sweep.ranges.items():
        for value in ends(span):
            flags = flags_of(config, changes_of(common), sweep.base, first, {key: value})
            config_of(flags, f"ranges[{key!r}]")


class StudyFile(JournalFileBackend):
    """Optuna's journal of a study; raises DiskError if the file cannot be written."""

    def __init__(self, path: Path):
        self._path = path
        with writing(path):
            super().__init__(str(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        size = self._path.stat().st_size
        with writing(self._path):
            try:
                super().append_logs(logs)
            except OSError:
                os.truncate(self._path, size)  # half a line would spoil the one after it
                raise


class SearchRuns:
    """A Source: what the sampler proposes, until there are as many trials as were asked for."""

    def __init__(
        self, sweep: Search, config: str, common: Sequence[str], workdir: Path, workers: int
    ):
        """Opens the study, or makes it.

        Raises:
            InputError: the workdir holds another search, or runs under other JAX settings.
        """
        self.sweep, self.config, self.common = sweep, config, common
        self.runs = workdir / "runs"
        self.failures: dict[str, str] = {}
        self._asked: dict[str, optuna.Trial] = {}  # those that are running, by the run's name
        self._told: dict[str, int] = {}  # validations of them that the study knows
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(StudyFile(workdir / "study.log"))
        self.study = optuna.create_study(
            study_name="sweep", storage=storage, direction="maximize", load_if_exists=True
        )
        self._check_same(workdir)
        known = len(self.study.trials)
        # A sampler that is made again would draw the same numbers again.
        self.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=sweep.first_trials, seed=sweep.seed + known, constant_liar=workers > 1
        )
        self.study.pruner = optuna.pruners.MedianPruner(n_startup_trials=sweep.first_trials)
        self._take_up()

    def _check_same(self, workdir: Path) -> None:
        first = {key: ends(span)[0] for key, span in self.sweep.ranges.items()}
        flags = flags_of(self.config, changes_of(self.common), self.sweep.base, first)
        keys = flat(config_of(flags, "ranges").to_dict())
        swept = {f"config.{key}" for key in self.sweep.ranges}
        asked = dataclasses.asdict(self.sweep) | {
            "config": self.config,
            "flags": self.common,
            "the config's keys": {k: v for k, v in keys.items() if k not in swept},
        }
        asked = json.loads(json.dumps({k: v for k, v in asked.items() if k != "trials"}))
        there = self.study.user_attrs.get(ASKED, asked)
        if differing := [key for key in there if asked.get(key) != there[key]]:
            raise InputError(
                f"--workdir={workdir}: holds another search (other in {', '.join(differing)}); "
                "give another folder (more trials may be asked for in the same)"
            )
        self.study.set_user_attr(ASKED, asked)
        for name in self.latest():
            RunFolder(self.runs / name).check_jax_settings(recorded())

    def _take_up(self) -> None:
        """Put the trials that did not come to an end in front of the queue."""
        for name, trial in self.latest().items():
            if trial.state in (TrialState.RUNNING, TrialState.FAIL):
                if trial.state == TrialState.RUNNING:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(_params(trial), user_attrs={RUN: name})

    def latest(self) -> dict[str, FrozenTrial]:
        """The newest trial of the study for each run, by the run's name."""
        trials = sorted(self.study.get_trials(deepcopy=False), key=lambda trial: trial.number)
        return {trial.user_attrs[RUN]: trial for trial in trials if RUN in trial.user_attrs}

    def trial(self, name: str, params: dict[str, str | int | float | bool]) -> Trial:
        """The run that tries some parameters."""
        flags = flags_of(self.config, changes_of(self.common), self.sweep.base, params)
        return Trial(name, name, None, flags, self.runs / name)

    def next(self) -> Trial | None:
        latest = self.latest()
        waits = any(trial.state == TrialState.WAITING for trial in latest.values())
        if not waits and len(latest) >= self.sweep.trials:
            return None
        asked = self.study.ask({k: _distribution(span) for k, span in self.sweep.ranges.items()})
        name = asked.user_attrs.get(RUN) or f"trial-{len(latest):04d}"
        asked.set_user_attr(RUN, name)
        self._asked[name], self._told[name] = asked, 0
        trial = self.trial(name, asked.params)
        try:
            check_folder(trial, name)
        except InputError as error:  # values that do not go together
            self.failures[name] = str(error)
            self.study.tell(asked, state=TrialState.FAIL)
            log.info("FAILED: %s", error)
            return self.next()
        log.info("%s: %s", name, ", ".join(f"{k} {v}" for k, v in asked.params.items()))
        return trial

    def is_hopeless(self, trial: Trial) -> bool:
        return any(self._asked[trial.name].should_prune() for _ in self._tell_validations(trial))

    def _tell_validations(self, trial: Trial) -> Iterator[None]:
        """Tells the study of those that it does not know yet, one by one."""
        scores = [score for _, score in trial.choosing_validations()]
        for number in range(self._told[trial.name], len(scores)):
            self._asked[trial.name].report(scores[number], number)
            self._told[trial.name] = number + 1
            yield

    @property
    def unfinished(self) -> dict[str, str]:
        """Name → reason, of those that ended and are not through."""
        return self.failures

    def ended(self, end: Ended) -> None:
        trial, asked = end.trial, self._asked[end.trial.name]
        if end.code == 0:
            for _ in self._tell_validations(trial):
                pass
            self.study.tell(asked, trial.score())
            outcome = f"validation NDCG@10 {trial.score():.5f}"
        elif end.cut or end.code == NOT_FINITE:
            outcome = "cut, below the median" if end.cut else "diverged"
            asked.set_user_attr(OUTCOME, outcome)
            self.study.tell(asked, state=TrialState.PRUNED)
        elif end.stopped:
            outcome = "stopped, to go on with"
            self.failures[trial.name] = end.reason
        else:
            outcome = f"FAILED with exit code {end.code}: {end.reason}"
            self.study.tell(asked, state=TrialState.FAIL)
            self.failures[trial.name] = end.reason
        log.info("%s: %s, %.0f s", trial.name, outcome, end.seconds)

    def tried(self, seconds: Mapping[str, float]) -> list[Tried]:
        """All trials so far, in the order they were first proposed."""
        return [
            Tried(
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
        """A line that says how to run the best again; empty as long as none is through."""
        through = [
            (trial.value, name)
            for name, trial in self.latest().items()
            if trial.state == TrialState.COMPLETE and trial.value is not None
        ]
        if not through:
            return ""
        score, name = max(through)
        params = self.latest()[name].params
        flags = flags_of(self.config, changes_of(self.common), self.sweep.base, params)
        return f"best: {name}, {METRIC} {score:.5f} on validation: {shlex.join(flags)}"


def _params(trial: FrozenTrial) -> dict[str, str | int | float | bool]:
    """Of one that waits in the queue, those that it was put there with."""
    return trial.params or trial.system_attrs.get("fixed_params", {})


def _best_so_far(trial: FrozenTrial) -> float | None:
    return max(trial.intermediate_values.values(), default=None)


def _distribution(span: Range | Choice) -> BaseDistribution:
    if isinstance(span, Choice):
        return CategoricalDistribution(span.values)
    if isinstance(span.low, int) and isinstance(span.high, int):
        return IntDistribution(span.low, span.high, log=span.log)
    return FloatDistribution(span.low, span.high, log=span.log)
