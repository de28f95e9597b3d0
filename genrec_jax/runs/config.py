"""The config of a run, from nested mappings; its keys are in `models/run_config.py`.

The keys depend on the model family, which `config.model.family` names: each family's `config.py` in
`models/` has those of its runs, their defaults and what they mean.
"""

from collections.abc import Collection, Mapping
from typing import Any

from genrec_jax.core.config_fields import build, flat
from genrec_jax.core.errors import InputError
from genrec_jax.models import DEFAULT, FAMILIES, config_class
from genrec_jax.models.run_config import RunConfig
from genrec_jax.runs.renamed_keys import RENAMED


def default_config(family: str = DEFAULT) -> RunConfig:
    """The defaults of a family, a recipe on the synthetic dataset that runs as it is.

    Raises:
        InputError: there is no such family.
    """
    _check_family(family)
    return config_class(family)()


def config_from_dict(values: Mapping[str, Any], is_measured: bool = True) -> RunConfig:
    """A config from nested mappings that hold every key of its family, checked as a whole.

    Args:
        values: group → key → value.
        is_measured: whether rankings by it are evaluated, which takes ten items or more.

    Raises:
        InputError: an unknown, missing or ill-typed key, or values that do not fit together.
    """
    check_keys(flat(values), values)
    config: RunConfig = build(default_config(family_of(values)), values)
    config.check()
    if is_measured and config.evaluate.top_k < 10:
        raise InputError(
            f"config.evaluate.top_k: found {config.evaluate.top_k}, expected at least 10, since "
            "checkpoints are compared by NDCG@10"
        )
    return config


def with_evaluate(
    config: RunConfig, changes: Mapping[str, Any], is_measured: bool = True
) -> RunConfig:
    """The config with other keys of `evaluate`, checked as a whole.

    Args:
        config: of a run.
        changes: key → value, without `config.evaluate.` in front.
        is_measured: as of `config_from_dict`.

    Raises:
        InputError: a key that the family does not have, or values that do not fit.
    """
    if not isinstance(changes, Mapping):
        raise InputError(
            f"config.evaluate: found {changes!r}, expected keys to change, as {{'beams': 40}}"
        )
    values = config.to_dict()
    changed = values | {"evaluate": values["evaluate"] | dict(changes)}
    return config_from_dict(changed, is_measured)


def check_keys(found: Collection[str], values: Mapping[str, Any]) -> None:
    """Raise InputError for a renamed key, or one that only other families have.

    Args:
        found: the keys, as `config.a.b`.
        values: the config, which says of which family it is.
    """
    family = family_of(values)
    own = flat(default_config(family).to_dict())
    for key in found:
        if key in RENAMED:
            raise InputError(f"{key}: {RENAMED[key]}")
        if key in own:
            continue
        having = [one for one in FAMILIES if key in flat(config_class(one)().to_dict())]
        if having:
            raise InputError(
                f"{key}: is not a key of {family}, the model family of this config, but of "
                + " and ".join(having)
            )


def family_of(values: Mapping[str, Any]) -> str:
    """The model family that nested mappings are the config of.

    Raises:
        InputError: they name none, or one that does not exist.
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
    """Raise InputError for a variant that a config file does not have.

    Args:
        found: what `get_config(variant)` was called with; "" is the file without a variant.
        expected: the variants.
    """
    if found and found not in expected:
        known = f"one of {', '.join(expected)}" if expected else "none: this config has no variants"
        raise InputError(f"no variant {found!r}, expected {known}")
