"""Config keys by dotted name, and conversion of nested mappings into checked frozen dataclasses.

A config is a tree of frozen dataclasses. Each field declares its allowed values next to its default
(`at_least`, `share`, `positive`, `one_of`). Constraints between several fields are checked by the
dataclass that contains them.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from genrec_jax.core.errors import InputError

LARGEST = 2**63 - 1  # the largest integer that NumPy and JAX can hold

# Maps a value to a description of the expected values, or to "" if the value is allowed.
Check = Callable[[Any], str]


def at_least(least: int | float, default: Any) -> Any:
    """Declare a field whose value is a number of at least `least`."""
    return _field(default, lambda value: "" if value >= least else f"at least {least}")


def share(default: float) -> Any:
    """Declare a field whose value is a fraction in [0, 1)."""
    return _field(default, lambda value: "" if 0 <= value < 1 else "a number in [0, 1)")


def positive(default: float) -> Any:
    """Declare a field whose value is greater than 0."""
    return _field(default, lambda value: "" if value > 0 else "a number above 0")


def one_of(allowed: tuple[Any, ...], default: Any, renamed: Mapping[Any, Any] | None = None) -> Any:
    """Declare a field whose value is one of a fixed set.

    Args:
        allowed: the allowed values.
        default: the default, one of `allowed`.
        renamed: values of earlier versions and their current names; the error message for an old
            value suggests the current one.
    """
    current = renamed or {}

    def check(value: Any) -> str:
        if value in allowed:
            return ""
        if current.get(value) in allowed:
            return f"{current[value]!r}, its current name"
        return ("one of " if len(allowed) > 1 else "") + ", ".join(map(str, allowed))

    return _field(default, check, allowed)


def _field(default: Any, check: Check, allowed: tuple[Any, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"check": check, "allowed": allowed})


def check_fields(config: Any, name: str = "config") -> None:
    """Check every value of a config, including those of nested groups, against its field.

    Args:
        config: an instance of a config dataclass.
        name: the dotted name of that group of keys, used in messages.

    Raises:
        InputError: for the first value that its field does not allow.
    """
    values = vars(config)
    _check_leaves({field.name: field for field in dataclasses.fields(config)}, values, name)
    for key, value in values.items():
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{name}.{key}")


def flat(values: Mapping[str, Any], prefix: str = "config") -> dict[str, Any]:
    """Flatten nested mappings into one mapping with dotted keys, such as `config.a.b`."""
    result = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        result |= flat(value, name) if isinstance(value, Mapping) else {name: value}
    return result


def check_key(key: str, known: Collection[str]) -> None:
    """Check that a dotted key exists.

    Args:
        key: the key as it appears in a flag, such as `config.model.dropout`.
        known: all existing keys.

    Raises:
        InputError: the key does not exist; the message suggests similar keys.
    """
    if key in known:
        return
    groups = {name.rsplit(".", 1)[0] for name in known} - {"config"}
    if key in groups:
        raise InputError(
            f"{key}: found a group of keys, expected one of its keys, as in {key}.KEY=VALUE"
        )
    last = key.rsplit(".", 1)[-1]
    similar = [name for name in sorted(known) if name.rsplit(".", 1)[-1] == last]
    similar = similar or difflib.get_close_matches(key, known, n=3, cutoff=0.8)
    hint = f"; did you mean {', '.join(similar)}?" if similar else ""
    raise InputError(f"{key}: no such key{hint}")


def build(config: Any, values: Any) -> Any:
    """Build a config from nested mappings.

    Args:
        config: an instance of the config's dataclass; its structure determines keys and types.
        values: nested mappings that contain every key.

    Returns:
        A new instance of the class of `config`.

    Raises:
        InputError: a key is unknown or missing, or a value has the wrong type or is not allowed by
            its field.
    """
    known = flat(dataclasses.asdict(config))
    for key in flat(values) if isinstance(values, Mapping) else ():
        check_key(key, known)
    return _build(config, values, "config")


def _build(like: Any, values: Any, name: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"{name}: found {values!r}, expected a group of keys")
    fields = {f.name: f for f in dataclasses.fields(like)}
    missing = sorted(fields.keys() - values.keys())
    if missing:
        raise InputError(f"{name}: the keys {', '.join(missing)} are missing")
    built = {}
    for key, field in fields.items():
        part = getattr(like, key)
        if dataclasses.is_dataclass(part):
            built[key] = _build(part, values[key], f"{name}.{key}")
        else:
            built[key] = _typed(values[key], field.type, f"{name}.{key}")
    _check_leaves(fields, built, name)
    return type(like)(**built)


def _check_leaves(fields: Mapping[str, Any], values: Mapping[str, Any], name: str) -> None:
    """Raise InputError for the first value of one group that its field does not allow.

    This must run before the dataclass is built, because the dataclass's own checks rely on values
    that are allowed individually.
    """
    for key, field in fields.items():
        if (check := field.metadata.get("check")) and (expected := check(values[key])):
            raise InputError(f"{name}.{key}: found {values[key]!r}, expected {expected}")


def _typed(value: Any, kind: Any, name: str) -> Any:
    if kind is float and type(value) in (int, float):
        if not math.isfinite(value):
            raise InputError(f"{name}: found {value}, expected a finite number")
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{name}: found {value!r}, expected a value of type {kind.__name__}")
    if kind is int and not -LARGEST <= value <= LARGEST:
        raise InputError(f"{name}: found {value}, expected at most {LARGEST}")
    return value


def expect_heads(heads: int, d_model: int) -> None:
    """Raise InputError if `heads` attention heads cannot split the model width evenly."""
    if d_model % max(heads, 1):
        raise InputError(
            f"config.model.attention_heads: found {heads}, expected a divisor of "
            f"config.model.d_model = {d_model}"
        )


def expect_multiple(key: str, found: int, divisor: int) -> None:
    """Raise InputError if the value `found` of a config key is not a multiple of `divisor`."""
    if found % divisor:
        raise InputError(
            f"{key}: found {found}, expected a multiple of {divisor}, to which batches are padded"
        )
