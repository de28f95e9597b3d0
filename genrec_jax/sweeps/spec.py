"""The content of a sweep file, an ablation or a search, and how it is loaded.

    from genrec_jax.sweeps.spec import Ablation, Setting

    def get_sweep() -> Ablation:
        return Ablation(
            seeds=(0, 1, 2),
            settings={
                "random codes": Setting({"indexing": "random_codes"}),
                "no dropout": Setting({"indexing": "random_codes", "model.dropout": 0.0}),
            },
        )

Keys are config keys without the prefix `config.`. Their values are checked with the complete config
of each run, before the first run starts.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec_jax.core.errors import InputError
from genrec_jax.core.moved import moved_hint
from genrec_jax.core.shipped import SWEEPS, find_file

Value = str | int | float | bool
SEED_KEYS = ("seed", "indexing_seed")  # the keys that an ablation's seed sets, if present
ENSEMBLE_SUFFIX = " + kNN"


@dataclass(frozen=True)
class Setting:
    """One setting of an ablation: changes to a config."""

    changes: Mapping[str, Any] = field(default_factory=dict)  # key → Value
    # FILE[:variant] of the config to change, relative to the working folder; "" for --config.
    config: str = ""
    # Whether to combine the finished runs with the kNN too (evaluation/ensemble_run.py); adds a
    # table row named by the setting and ENSEMBLE_SUFFIX.
    ensemble: bool = False


@dataclass(frozen=True)
class Ablation:
    """A comparison of named settings, each run with every seed.

    Settings may belong to different model families. A key of `base` applies to the settings whose
    family has this key; a key that no setting's family has is an error.
    """

    settings: Mapping[str, Setting]  # label → setting
    seeds: tuple[int, ...] = (0, 1, 2)
    base: Mapping[str, Any] = field(default_factory=dict)  # key → value, for all settings


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, inclusive; integers if both are integers."""

    low: int | float
    high: int | float
    log: bool = False  # whether to sample on a logarithmic scale


@dataclass(frozen=True)
class Choice:
    """A choice between unordered values."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Search:
    """A search for the highest validation NDCG@10 with Optuna's TPE sampler and median pruner."""

    ranges: Mapping[str, Range | Choice]  # key → values to search
    trials: int = 30  # number of trials
    # The number of initial trials with random parameters. Pruning starts when as many trials have
    # finished: trials below the median of the finished ones at the same validation are pruned.
    first_trials: int = 8
    base: Mapping[str, Any] = field(default_factory=dict)  # key → value, for all trials
    seed: int = 0  # seed of the sampler


Sweep = Ablation | Search


def load_sweep(path: Path) -> Sweep:
    """Load a sweep file and check everything that does not require a config.

    Args:
        path: a Python file that defines `get_sweep()`.

    Raises:
        InputError: the file is missing or raises an error, or the sweep is invalid.
    """
    name = f"--sweep={path}"
    path = find_file(path, "--sweep", SWEEPS)
    spec = importlib.util.spec_from_file_location("sweep_file", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{name}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_sweep", None)):
            raise InputError("found no get_sweep(), expected a function returning a sweep")
        sweep = module.get_sweep()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (Exception, SystemExit) as error:  # a sweep file may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{name}: {reason}{moved_hint(reason)}") from None
    if isinstance(sweep, Ablation):
        _check_ablation(sweep, name)
    elif isinstance(sweep, Search):
        _check_search(sweep, name)
    else:
        raise InputError(
            f"{name}: get_sweep() returned {sweep!r}, expected an Ablation or a Search"
        )
    return sweep


def _check_ablation(sweep: Ablation, name: str) -> None:
    _expect(sweep.settings, Mapping, f"{name}: settings")
    _expect(sweep.seeds, (tuple, list), f"{name}: seeds")
    for seed in sweep.seeds:
        _expect(seed, int, f"{name}: seeds")
    if not sweep.settings or not sweep.seeds:
        raise InputError(f"{name}: found no settings or no seeds, expected at least one of each")
    if len(set(sweep.seeds)) < len(sweep.seeds):
        raise InputError(f"{name}: seeds: found {sweep.seeds}, expected no duplicates")
    _check_values(sweep.base, f"{name}: base", SEED_KEYS)
    folders: dict[str, str] = {}
    for label, setting in sweep.settings.items():
        where = f"{name}: settings[{label!r}]"
        _expect(label, str, where)
        _expect(setting, Setting, where)
        _expect(setting.config, str, f"{where}: config")
        _expect(setting.ensemble, bool, f"{where}: ensemble")
        _check_values(setting.changes, where, SEED_KEYS)
        if setting.ensemble and label + ENSEMBLE_SUFFIX in sweep.settings:
            raise InputError(
                f"{where}: found another setting {label + ENSEMBLE_SUFFIX!r}, which is the name of "
                "this setting's ensemble"
            )
        other = folders.setdefault(folder_name(label), label)
        if not folder_name(label) or other != label:
            found = f"the letters and digits of {other!r}" if folder_name(label) else "no letters"
            raise InputError(f"{where}: found {found}, expected a label with a unique folder name")


def _check_search(sweep: Search, name: str) -> None:
    _expect(sweep.ranges, Mapping, f"{name}: ranges")
    for key in ("trials", "first_trials", "seed"):
        _expect(getattr(sweep, key), int, f"{name}: {key}")
    if not sweep.ranges or sweep.trials < 1:
        raise InputError(f"{name}: found no ranges or no trials, expected at least one of each")
    if sweep.first_trials < 0 or sweep.seed < 0:
        raise InputError(
            f"{name}: found first_trials={sweep.first_trials} and seed={sweep.seed}, expected at "
            "least 0"
        )
    _check_values(sweep.base, f"{name}: base", tuple(sweep.ranges))
    for key, span in sweep.ranges.items():
        where = f"{name}: ranges[{key!r}]"
        if isinstance(span, Choice):
            _expect(span.values, (tuple, list), where)
            for value in span.values:
                _check_values({key: value}, where, ())
            if not span.values:
                raise InputError(f"{where}: found no values, expected at least one")
        elif not isinstance(span, Range):
            raise InputError(f"{where}: found {span!r}, expected a Range or a Choice")
        elif not all(type(end) in (int, float) for end in (span.low, span.high)):
            raise InputError(f"{where}: found {span}, expected numbers")
        elif not span.low < span.high or (span.log and span.low <= 0):
            raise InputError(
                f"{where}: found {span}, expected low < high, and low > 0 with log=True"
            )


def _expect(found: Any, kind: type | tuple[type, ...], where: str) -> None:
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{where}: found {found!r}, expected {names}")


def _check_values(changes: Any, where: str, reserved: tuple[str, ...]) -> None:
    """Raise InputError unless `changes` maps keys outside `reserved` to Values."""
    _expect(changes, Mapping, where)
    for key, value in changes.items():
        if key in reserved:
            raise InputError(f"{where}: found {key}, which the sweep itself sets")
        if not isinstance(value, Value):
            raise InputError(
                f"{where}: {key}: found {value!r}, expected a string, a number or a bool"
            )


def folder_name(label: str) -> str:
    """Return the folder name of a setting: `+ trie-node output` → `trie-node-output`."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in label.lower())
    return "-".join(part for part in kept.split("-") if part)


def ends(span: Range | Choice) -> list[Value]:
    """Return the values of a range to check before a search starts: both ends, or all choices."""
    return list(span.values) if isinstance(span, Choice) else list(dataclasses.astuple(span)[:2])
