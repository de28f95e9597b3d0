"""What a sweep file holds: an ablation or a search, and how it is read.

    from genrec_jax.sweeps.spec import Ablation, Setting

    def get_sweep() -> Ablation:
        return Ablation(
            seeds=(0, 1, 2),
            settings={
                "random codes": Setting({"indexing": "random_codes"}),
                "no dropout": Setting({"indexing": "random_codes", "model.dropout": 0.0}),
            },
        )

Keys are those of the config, without `config.` in front. What they hold is checked with the whole
config of each run, before the first one starts.
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
SEED_KEYS = ("seed", "indexing_seed")  # a seed of an ablation sets those that a family has
MIXED_SUFFIX = " + kNN"


@dataclass(frozen=True)
class Setting:
    """One line of an ablation."""

    changes: Mapping[str, Any] = field(default_factory=dict)  # key → a Value
    # FILE[:variant] that the changes are made to, from the working folder; "": --config's.
    config: str = ""
    # Combine the finished runs with the kNN too (evaluation/ensemble_run.py): one line more, NAME
    # and MIXED_SUFFIX.
    mix: bool = False


@dataclass(frozen=True)
class Ablation:
    """Named settings, each with every seed.

    Settings of several model families can be compared: a key of `base` applies to the settings
    whose family has it; one that no setting's family has is refused.
    """

    settings: Mapping[str, Setting]
    seeds: tuple[int, ...] = (0, 1, 2)
    base: Mapping[str, Any] = field(default_factory=dict)  # changes common to all that have the key


@dataclass(frozen=True)
class Range:
    """All numbers from low to high, both included; whole ones where both are."""

    low: int | float
    high: int | float
    log: bool = False  # even on a logarithmic scale


@dataclass(frozen=True)
class Choice:
    """One of some values, in no order."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Search:
    """Optuna's TPE over ranges, for the highest validation NDCG@10; the median rule cuts trials."""

    ranges: Mapping[str, Range | Choice]
    trials: int = 30
    # Trials that are run to their end before one is cut for being below the median at the same
    # validation; the first so many are also drawn at random.
    first_trials: int = 8
    base: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0  # of the sampler


Sweep = Ablation | Search


def load_sweep(path: Path) -> Sweep:
    """What get_sweep() of a sweep file gives, checked as far as one can without a config.

    Raises:
        InputError: no such file, a fault in it, or a sweep without a trial.
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
            raise InputError("found no get_sweep(), which gives an Ablation or a Search")
        sweep = module.get_sweep()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except (Exception, SystemExit) as error:  # it is code, and may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{name}: {reason}{moved_hint(reason)}") from None
    if isinstance(sweep, Ablation):
        _check_ablation(sweep, name)
    elif isinstance(sweep, Search):
        _check_search(sweep, name)
    else:
        raise InputError(f"{name}: get_sweep() gave {sweep!r}, expected an Ablation or a Search")
    return sweep


def _check_ablation(sweep: Ablation, name: str) -> None:
    _expect(sweep.settings, Mapping, f"{name}: settings")
    _expect(sweep.seeds, (tuple, list), f"{name}: seeds")
    for seed in sweep.seeds:
        _expect(seed, int, f"{name}: seeds")
    if not sweep.settings or not sweep.seeds:
        raise InputError(f"{name}: found no settings or no seeds, expected one of each at least")
    if len(set(sweep.seeds)) < len(sweep.seeds):
        raise InputError(f"{name}: found the seeds {sweep.seeds}, expected each once")
    _check_values(sweep.base, f"{name}: base", SEED_KEYS)
    folders: dict[str, str] = {}
    for label, setting in sweep.settings.items():
        where = f"{name}: settings[{label!r}]"
        _expect(label, str, where)
        _expect(setting, Setting, where)
        _expect(setting.config, str, f"{where}: config")
        _expect(setting.mix, bool, f"{where}: mix")
        _check_values(setting.changes, where, SEED_KEYS)
        if setting.mix and label + MIXED_SUFFIX in sweep.settings:
            raise InputError(f"{where}: found {label + MIXED_SUFFIX!r} too, the name of its mix")
        other = folders.setdefault(folder_name(label), label)
        if not folder_name(label) or other != label:
            raise InputError(
                f"{where}: expected a name of letters and digits that is not as {other!r} without "
                "its other characters"
            )


def _check_search(sweep: Search, name: str) -> None:
    _expect(sweep.ranges, Mapping, f"{name}: ranges")
    for key in ("trials", "first_trials", "seed"):
        _expect(getattr(sweep, key), int, f"{name}: {key}")
    if not sweep.ranges or sweep.trials < 1:
        raise InputError(f"{name}: found no ranges or no trials, expected one of each at least")
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
                raise InputError(f"{where}: found no values")
        elif not isinstance(span, Range):
            raise InputError(f"{where}: found {span!r}, expected a Range or a Choice")
        elif not all(type(end) in (int, float) for end in (span.low, span.high)):
            raise InputError(f"{where}: found {span}, expected numbers")
        elif not span.low < span.high or (span.log and span.low <= 0):
            raise InputError(
                f"{where}: found {span}, expected low below high, and above 0 on a logarithmic "
                "scale"
            )


def _expect(found: Any, kind: type | tuple[type, ...], where: str) -> None:
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{where}: found {found!r}, expected {names}")


def _check_values(changes: Any, where: str, taken: tuple[str, ...]) -> None:
    _expect(changes, Mapping, where)
    for key, value in changes.items():
        if key in taken:
            raise InputError(f"{where}: {key} is set by the sweep itself")
        if not isinstance(value, Value):
            raise InputError(f"{where}: {key} is {value!r}, expected text, a number or a bool")


def folder_name(label: str) -> str:
    """`+ trie-node output` → `trie-node-output`."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in label.lower())
    return "-".join(part for part in kept.split("-") if part)


def ends(span: Range | Choice) -> list[Value]:
    """The values whose configs are checked before a search starts."""
    return list(span.values) if isinstance(span, Choice) else list(dataclasses.astuple(span)[:2])
