"""Keys of a config by their dotted names, and nested mappings as checked frozen dataclasses.

A config is a tree of frozen dataclasses. A field states the values it allows next to its default
(`at_least`, `share`, `positive`, `one_of`); each dataclass checks which values fit together.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from genrec_jax.core.errors import InputError

LARGEST = 2**63 - 1  # NumPy and JAX take no larger whole number

# From a value to what is expected instead; "" if the value is allowed.
Check = Callable[[Any], str]


def at_least(least: int | float, default: Any) -> Any:
    """A field whose value is a number of `least` or more."""
    return _field(default, lambda value: "" if value >= least else f"at least {least}")


def share(default: float) -> Any:
    """A field whose value is at least 0 and below 1."""
    return _field(default, lambda value: "" if 0 <= value < 1 else "a share from 0 to below 1")


def positive(default: float) -> Any:
    """A field whose value is above 0."""
    return _field(default, lambda value: "" if value > 0 else "a number above 0")


def one_of(allowed: tuple[Any, ...], default: Any, renamed: Mapping[Any, Any] | None = None) -> Any:
    """A field whose value is one of several.

    Args:
        allowed: the values.
        default: one of them.
        renamed: value of an earlier version → its name now, for the message.
    """
    names = renamed or {}

    def check(value: Any) -> str:
        if value in allowed:
            return ""
        if names.get(value) in allowed:
            return f"{names[value]!r}, as it is called now"
        return ("one of " if len(allowed) > 1 else "") + ", ".join(map(str, allowed))

    return _field(default, check, allowed)


def _field(default: Any, check: Check, allowed: tuple[Any, ...] = ()) -> Any:
    return dataclasses.field(default=default, metadata={"check": check, "allowed": allowed})


def check_fields(config: Any, name: str = "config") -> None:
    """Raise InputError for the first value, in any group, that its field does not allow.

    Args:
        config: an instance of a config dataclass.
        name: of the group of keys that it is.
    """
    values = vars(config)
    _check_leaves({field.name: field for field in dataclasses.fields(config)}, values, name)
    for key, value in values.items():
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{name}.{key}")


def flat(values: Mapping[str, Any], prefix: str = "config") -> dict[str, Any]:
    """Nested mappings as `config.a.b` → value."""
    result = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        result |= flat(value, name) if isinstance(value, Mapping) else {name: value}
    return result


def check_key(key: str, known: Collection[str]) -> None:
    """Raise InputError for a `config.a.b` that does not exist, with those it may be meant for.

    Args:
        key: as a flag names it.
        known: the keys that exist.
    """
    if key in known:
        return
    groups = {name.rsplit(".", 1)[0] for name in known} - {"config"}
    if key in groups:
        raise InputError(f"{key}: is a group of keys, expected one of its keys, as {key}.KEY=VALUE")
    last = key.rsplit(".", 1)[-1]
    near = [name for name in sorted(known) if name.rsplit(".", 1)[-1] == last]
    near = near or difflib.get_close_matches(key, known, n=3, cutoff=0.8)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise InputError(f"{key}: no such key{hint}")


def build(config: Any, values: Any) -> Any:
    """A config of the class of `config`, from nested mappings that hold every key.

    Raises:
        InputError: an unknown, missing or ill-typed key, or a value that its field does not allow.
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
    """Raise InputError for the first value of a group that its field does not allow.

    Before the dataclass is built: its own checks rely on values that are allowed.
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
    """Raise InputError if attention heads cannot share the width of a model evenly."""
    if d_model % max(heads, 1):
        raise InputError(
            f"config.model.attention_heads: found {heads}, expected a divisor of "
            f"config.model.d_model = {d_model}"
        )


def expect_multiple(key: str, found: int, divisor: int) -> None:
    """Raise InputError if the value of a key is no multiple of `divisor`."""
    if found % divisor:
        raise InputError(
            f"{key}: found {found}, expected a multiple of {divisor}, which batches are padded to"
        )
