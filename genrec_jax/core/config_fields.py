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


def check_key(key: str, *configs: Any) -> None:
    """Raise InputError for a `config.a.b` that does not exist, with those it may be meant for.

    Args:
        key: as a flag names it.
        configs: config dataclasses; the keys of each exist.
    """
    known: dict[str, Any] = {}
    for config in configs:
        known |= flat(dataclasses.asdict(config))
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
    return _build(config, values, "config")


def _build(like: Any, values: Any, name: str) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"{name}: found {values!r}, expected a group of keys")
    fields = {f.name: f.type for f in dataclasses.fields(like)}
    missing = sorted(fields.keys() - values.keys())
    if missing:
        raise InputError(f"{name}: the keys {', '.join(missing)} are missing")
    built = {}
    for key, kind in fields.items():
        part = getattr(like, key)
        if dataclasses.is_dataclass(part):
            built[key] = _build(part, values[key], f"{name}.{key}")
        else:
            built[key] = _typed(values[key], kind, f"{name}.{key}")
    return type(like)(**built)


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


def expect_one_of(key: str, found: Any, allowed: tuple[Any, ...], family: str = "") -> None:
    """Raise InputError if the value of a key is not among those that are allowed.

    Args:
        key: as `config.a.b`.
        found: its value.
        allowed: the values that it may have.
        family: the model family that allows no others, for the message.
    """
    if found not in allowed:
        of = f" with the model family {family}" if family else ""
        one_of = "one of " if len(allowed) > 1 else ""
        words = ", ".join(map(str, allowed))
        raise InputError(f"{key}: found {found!r}{of}, expected {one_of}{words}")


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
