"""Keys of a config by their dotted names, and nested mappings as checked frozen dataclasses.

What values mean and which of them fit together, each config says itself.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

from genrec_jax.core.errors import InputError

LARGEST = 2**63 - 1  # NumPy and JAX take no larger whole number


def flat(values: Mapping[str, Any], prefix: str = "config") -> dict[str, Any]:
    """Nested mappings as `config.a.b` → value."""
    result = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        result |= flat(value, name) if isinstance(value, Mapping) else {name: value}
    return result


def check_key(key: str, config: Any) -> None:
    """Raise InputError for a `config.a.b` that does not exist, with those it may stand for.

    Args:
        key: as a flag names it.
        config: a config dataclass with the keys that exist.
    """
    known = flat(dataclasses.asdict(config))
    if key in known:
        return
    groups = {name.rsplit(".", 1)[0] for name in known} - {"config"}
    if key in groups:
        raise InputError(f"{key}: is a group of keys, expected one of its keys, as {key}.KEY=VALUE")
    last = key.rsplit(".", 1)[-1]
    near = [name for name in known if name.rsplit(".", 1)[-1] == last]
    near = near or difflib.get_close_matches(key, list(known), n=3, cutoff=0.8)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise InputError(f"{key}: no such key{hint}")


def build(config: Any, values: Any) -> Any:
    """A config of the class of `config`, from nested mappings that hold every key.

    Raises:
        InputError: an unknown, missing or ill-typed key.
    """
    for key in flat(values) if isinstance(values, Mapping) else ():
        check_key(key, config)
    return _build(type(config), values, "config")


def _build(cls: type[Any], values: Any, name: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"{name}: found {values!r}, expected a group of keys")
    fields = {f.name: f.type for f in dataclasses.fields(cls)}
    missing = sorted(fields.keys() - values.keys())
    if missing:
        raise InputError(f"{name}: the keys {', '.join(missing)} are missing")
    built = {}
    for key, kind in fields.items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            built[key] = _build(kind, values[key], f"{name}.{key}")
        else:
            built[key] = _typed(values[key], kind, f"{name}.{key}")
    return cls(**built)


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
