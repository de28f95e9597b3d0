"""Build and check the config of a run from nested mappings.

The keys that all runs share are defined in `models/run_config.py`. The other keys depend on the
model family, `config.model.family`: each family's `config.py` in `models/` defines and documents
the keys of its runs and their defaults.
"""

from collections.abc import Collection, Mapping
from typing import Any

from genrec_jax.core.config_fields import build, flat
from genrec_jax.core.errors import InputError
from genrec_jax.models import DEFAULT, FAMILIES, config_class
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.renamed_keys import RENAMED


def default_config(family: str = DEFAULT) -> RunConfig:
    """Return a family's default config, which trains on the synthetic dataset without changes.

    Args:
        family: the name of the model family.

    Raises:
        InputError: there is no such family.
    """
    _check_family(family)
    return config_class(family)()


def config_from_dict(values: Mapping[str, Any], is_measured: bool = True) -> RunConfig:
    """Build a config from nested mappings that contain every key of its family, and check it.

    Args:
        values: group → key → value.
        is_measured: whether the run's rankings are evaluated, which requires
            `config.evaluate.top_k` to be at least 10.

    Raises:
        InputError: a key is unknown, missing or of the wrong type, or values are inconsistent.
    """
    check_keys(flat(values), values)
    config: RunConfig = build(default_config(family_of(values)), values)
    config.check()
    if is_measured and config.evaluate.top_k < 10:
        raise InputError(
            f"config.evaluate.top_k: found {config.evaluate.top_k}, expected at least 10, because "
            "checkpoints are compared by NDCG@10"
        )
    return config


def with_evaluate(
    config: RunConfig, changes: Mapping[str, Any], is_measured: bool = True
) -> RunConfig:
    """Return a copy of a config with changed keys of `evaluate`, and check it.

    Args:
        config: the run's config.
        changes: key → value; keys are without the prefix `config.evaluate.`.
        is_measured: whether the run's rankings are evaluated, as for `config_from_dict`.

    Raises:
        InputError: the family does not have a key, or a value is invalid.
    """
    if not isinstance(changes, Mapping):
        raise InputError(
            f"config.evaluate: found {changes!r}, expected keys to change, such as {{'beams': 40}}"
        )
    values = config.to_dict()
    changed = values | {"evaluate": values["evaluate"] | dict(changes)}
    return config_from_dict(changed, is_measured)


def check_keys(found: Collection[str], values: Mapping[str, Any]) -> None:
    """Check that no key is renamed or belongs only to other model families.

    Unknown keys pass: `build` reports them.

    Args:
        found: the keys, as `config.a.b`.
        values: the config as nested mappings; its `model.family` names the family.

    Raises:
        InputError: a key was renamed in version 0.2.0, or only other families have it.
    """
    family = family_of(values)
    known = flat(default_config(family).to_dict())
    for key in found:
        if key in RENAMED:
            raise InputError(f"{key}: {RENAMED[key]}")
        if key in known:
            continue
        owners = [name for name in FAMILIES if key in flat(config_class(name)().to_dict())]
        if owners:
            raise InputError(
                f"{key}: is not a key of {family}, the model family of this config, but of "
                + " and ".join(owners)
            )


def family_of(values: Mapping[str, Any]) -> str:
    """Return the model family of a config that is given as nested mappings.

    Raises:
        InputError: `model.family` is missing or unknown.
    """
    model = values.get("model")
    found = model.get("family") if isinstance(model, Mapping) else None
    _check_family(found)
    return str(found)


def _check_family(found: Any) -> None:
    if found not in FAMILIES:
        described = "none" if found is None else repr(found)
        raise InputError(
            f"config.model.family: found {described}, expected one of {', '.join(FAMILIES)}"
        )


def check_variant(found: str, expected: tuple[str, ...]) -> None:
    """Check that a config file has a variant.

    Args:
        found: the argument of `get_config(variant)`; "" means no variant.
        expected: the variants that the file has.

    Raises:
        InputError: the variant is unknown.
    """
    if found and found not in expected:
        known = f"one of {', '.join(expected)}" if expected else "none: this config has no variants"
        raise InputError(f"no variant {found!r}, expected {known}")
