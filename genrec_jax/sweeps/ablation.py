"""Named settings, each with every seed: the trials, and how far they have come."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from genrec_jax.core.config_fields import flat
from genrec_jax.core.errors import InputError
from genrec_jax.evaluation.ensemble_run import check_mixable
from genrec_jax.models.run_config import RunConfig
from genrec_jax.sweeps.pool import Ended
from genrec_jax.sweeps.spec import SEED_KEYS, Ablation, Value, folder_name
from genrec_jax.sweeps.trials import Trial, changes_of, check_folder, config_of, flags_of

log = logging.getLogger(__name__)


def ablation_trials(sweep: Ablation, config: str, common: Sequence[str], runs: Path) -> list[Trial]:
    """All trials, the first seed of every setting before the second of any.

    Args:
        sweep: the settings.
        config: FILE[:variant] of settings that name none.
        common: flags `--config.k=v` for all; a setting's own changes go over them.
        runs: folder of the runs' folders.

    Raises:
        InputError: a config that cannot be, a folder with another run, more than one test: other
            data, other users, or another rule for the items of the history; a mix that cannot be
            chosen.
    """
    trials = []
    shared = shared_changes(sweep, config, common)
    for seed in sweep.seeds:
        for label, setting in sweep.settings.items():
            name = f"{folder_name(label)}-seed{seed}"
            seeds = {key: seed for key in SEED_KEYS if key in shared[label].keys_of_config}
            file = setting.config or config
            flags = flags_of(file, shared[label].changes, setting.changes, seeds)
            trials.append(Trial(name, label, seed, flags, runs / name, setting.mix))
    tests: dict[str, str] = {}
    for trial in trials:
        where = f"settings[{trial.label!r}]"
        check_folder(trial, where)
        asked = config_of(trial.flags, where)
        if trial.mix:
            check_mixable(asked, f"{where}: ")
        tests.setdefault(_test_of(asked), trial.label)
    if len(tests) > 1:
        found = "; ".join(f"{test} in {label!r}" for test, label in tests.items())
        raise InputError(f"settings: found more than one test: {found}; expected one for all")
    return trials


class Shared(NamedTuple):
    """What a setting takes over from the sweep, and the keys that its config file has."""

    changes: dict[str, Value]
    keys_of_config: set[str]


def shared_changes(sweep: Ablation, config: str, common: Sequence[str]) -> dict[str, Shared]:
    """For each setting the flags for all trials and the keys of `base`, those that its family has.

    A key that no setting's family has is left in, so that checking the trial reports it.

    Args:
        sweep: the settings.
        config: FILE[:variant] of settings that name none.
        common: flags `--config.k=v` for all.

    Raises:
        InputError: a config file is missing or fails.
    """
    changes = changes_of(common) | dict(sweep.base)
    keys: dict[str, set[str]] = {}
    for label, setting in sweep.settings.items():
        own = config_of([f"--config={setting.config or config}"], f"settings[{label!r}]")
        keys[label] = {key.removeprefix("config.") for key in flat(own.to_dict())}
    known = set().union(*keys.values())
    shared = {}
    for label, own_keys in keys.items():
        left_out = [key for key in changes if key in known - own_keys]
        if left_out:
            log.info("%s: left out, not keys of its family: %s", label, ", ".join(left_out))
        kept = {key: value for key, value in changes.items() if key not in left_out}
        shared[label] = Shared(kept, own_keys)
    return shared


def _test_of(config: RunConfig) -> str:
    """What the test figures of a run are of, in words."""
    data, evaluate = config.data, config.evaluate
    words = [data.name, data.dir, data.file]
    if data.name == "synthetic":
        sizes = (data.synthetic_users, data.synthetic_items, data.synthetic_seed)
        words.append("{} users, {} items, seed {}".format(*sizes))
    words.append(f"without the last {data.drop_last}" if data.drop_last else "")
    words.append(f"{evaluate.users} of the users" if evaluate.users else "")
    words.append("the history left out" if evaluate.exclude_history else "repeats allowed")
    return ", ".join(word for word in words if word)


class AblationRuns:
    """A Source: each trial that is not finished, once."""

    def __init__(self, trials: Sequence[Trial]):
        self.trials = trials
        self.waiting = [trial for trial in trials if not trial.is_finished]
        self.failures: dict[str, str] = {}  # name → reason
        self.stopped: dict[str, str] = {}
        if there := len(trials) - len(self.waiting):
            log.info("%d of %d runs are finished", there, len(trials))

    @property
    def unfinished(self) -> dict[str, str]:
        """Name → reason, of those that ended and are not through."""
        return self.failures | self.stopped

    def next(self) -> Trial | None:
        if not self.waiting:
            return None
        trial = self.waiting.pop(0)
        log.info("%s, seed %s: %s", trial.label, trial.seed, trial.path)
        if trial.has_another_mix:
            log.info("%s was mixed in another way since; that is written over", trial.path)
        return trial

    def is_hopeless(self, trial: Trial) -> bool:
        return False

    def ended(self, end: Ended) -> None:
        trial = end.trial
        head = f"{trial.label}, seed {trial.seed}"
        if end.code == 0:
            log.info("%s: validation NDCG@10 %.5f, %.0f s", head, trial.score(), end.seconds)
        elif end.stopped:
            log.info("%s: stopped, to go on with", head)
            self.stopped[trial.name] = "stopped; the same command goes on with it"
        else:
            log.info("%s: FAILED with exit code %d: %s", head, end.code, end.reason)
            self.failures[trial.name] = end.reason
