"""The trials of an ablation, one per setting and seed, and the record of their progress."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from genrec_jax.core.config_fields import flat
from genrec_jax.core.errors import InputError
from genrec_jax.evaluation.ensemble_run import check_can_tune
from genrec_jax.models.run_config import RunConfig
from genrec_jax.sweeps.pool import STOPPED, TrialResult
from genrec_jax.sweeps.spec import SEED_KEYS, Ablation, Value, folder_name
from genrec_jax.sweeps.trials import Trial, changes_of, check_folder, config_of, flags_of

log = logging.getLogger(__name__)


def ablation_trials(sweep: Ablation, config: str, common: Sequence[str], runs: Path) -> list[Trial]:
    """Create the trials of an ablation, ordered by seed and then by setting.

    Args:
        sweep: the ablation.
        config: FILE[:variant] for the settings that do not name a config file.
        common: flags `--config.k=v` for all trials; a setting's changes override them.
        runs: the folder that contains the run directories.

    Raises:
        InputError: a config is invalid, a directory contains another run, the settings are not
            tested on the same data and users with the same rule for history items, or the
            ensemble of a setting cannot be tuned.
    """
    trials = []
    shared = shared_changes(sweep, config, common)
    for seed in sweep.seeds:
        for label, setting in sweep.settings.items():
            name = f"{folder_name(label)}-seed{seed}"
            seeds = {key: seed for key in SEED_KEYS if key in shared[label].config_keys}
            file = setting.config or config
            flags = flags_of(file, shared[label].changes, setting.changes, seeds)
            trials.append(Trial(name, label, seed, flags, runs / name, setting.ensemble))
    tests: dict[str, str] = {}
    for trial in trials:
        where = f"settings[{trial.label!r}]"
        check_folder(trial, where)
        trial_config = config_of(trial.flags, where)
        if trial.ensemble:
            check_can_tune(trial_config, f"{where}: ")
        tests.setdefault(_describe_test(trial_config), trial.label)
    if len(tests) > 1:
        found = "; ".join(f"{test} in {label!r}" for test, label in tests.items())
        raise InputError(
            f"settings: found different test conditions: {found}; expected the same for all"
        )
    return trials


class Shared(NamedTuple):
    """The shared changes that apply to one setting."""

    changes: dict[str, Value]  # key → value, only keys that the setting's family has
    config_keys: set[str]  # all keys of the setting's config, without `config.`


def shared_changes(sweep: Ablation, config: str, common: Sequence[str]) -> dict[str, Shared]:
    """Select the common flags and `base` keys that apply to each setting's model family.

    A key that no setting's family has is kept, so that the check of the trial reports it.

    Args:
        sweep: the ablation.
        config: FILE[:variant] for the settings that do not name a config file.
        common: flags `--config.k=v` for all trials.

    Returns:
        The setting's label → its shared changes.

    Raises:
        InputError: a config file is missing or raises an error.
    """
    changes = changes_of(common) | dict(sweep.base)
    keys: dict[str, set[str]] = {}
    for label, setting in sweep.settings.items():
        unchanged = config_of([f"--config={setting.config or config}"], f"settings[{label!r}]")
        keys[label] = {key.removeprefix("config.") for key in flat(unchanged.to_dict())}
    known = set().union(*keys.values())
    shared = {}
    for label, config_keys in keys.items():
        ignored = [key for key in changes if key in known - config_keys]
        if ignored:
            log.info(
                "%s: ignoring keys that its model family does not have: %s",
                *(label, ", ".join(ignored)),
            )
        kept = {key: value for key, value in changes.items() if key not in ignored}
        shared[label] = Shared(kept, config_keys)
    return shared


def _describe_test(config: RunConfig) -> str:
    """Describe the conditions under which a run's test metrics are computed."""
    data, evaluate = config.data, config.evaluate
    words = [data.name, data.dir, data.file]
    if data.name == "synthetic":
        sizes = (data.synthetic_users, data.synthetic_items, data.synthetic_seed)
        words.append("{} users, {} items, seed {}".format(*sizes))
    words.append(f"without the last {data.drop_last} items per user" if data.drop_last else "")
    words.append(f"{evaluate.users} sampled users" if evaluate.users else "")
    words.append("history items excluded" if evaluate.exclude_history else "history items included")
    return ", ".join(word for word in words if word)


class AblationRuns:
    """A source that runs each unfinished trial of an ablation once.

    Args:
        trials: all trials, in the order in which they are run.
    """

    def __init__(self, trials: Sequence[Trial]):
        self.trials = trials
        self.queue = [trial for trial in trials if not trial.is_finished]
        self.failures: dict[str, str] = {}  # the trial's name → its error
        self.stopped: dict[str, str] = {}  # the trial's name → its state
        if finished := len(trials) - len(self.queue):
            log.info("%d of %d runs are already finished", finished, len(trials))

    @property
    def unfinished(self) -> dict[str, str]:
        """The name of each trial that ended without a result → the reason."""
        return self.failures | self.stopped

    def next(self) -> Trial | None:
        """Return the next unfinished trial; None if all have been started."""
        if not self.queue:
            return None
        trial = self.queue.pop(0)
        log.info("%s, seed %s: %s", trial.label, trial.seed, trial.path)
        if trial.has_outdated_ensemble:
            log.info("%s: replacing the ensemble result of other settings", trial.path)
        return trial

    def should_prune(self, trial: Trial) -> bool:
        """Return False: an ablation runs every trial to its end."""
        return False

    def record(self, result: TrialResult) -> None:
        """Log the result of a trial and remember whether it failed or was stopped."""
        trial = result.trial
        title = f"{trial.label}, seed {trial.seed}"
        if result.code == 0:
            log.info("%s: validation NDCG@10 %.5f, %.0f s", title, trial.score(), result.seconds)
        elif result.stopped:
            log.info("%s: %s", title, STOPPED)
            self.stopped[trial.name] = STOPPED
        else:
            log.info("%s: failed with exit code %d: %s", title, result.code, result.reason)
            self.failures[trial.name] = result.reason
