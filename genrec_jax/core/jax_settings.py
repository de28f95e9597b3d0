"""JAX and XLA settings that affect numerical results: each is either pinned or recorded.

JAX reads its settings from the environment (`JAX_ENABLE_X64=1`). A run that is resumed under other
settings differs, bit for bit, from a run that was never stopped. Therefore:

    PINNED      settings with one correct value. A command sets it (`pin`) and warns if the
                environment has another. Importing genrec_jax does not change JAX: a Ranker
                (decoding/ranker.py) sets the values that matter to it only while it runs
                (`pinned`), and returns the same rankings whatever the caller's settings are.
    RECORDED    settings that are the user's choice, as are the environment VARIABLES. A run's
                folder stores the values that the run was started with. Training under other values
                is refused. Loading the run to evaluate or recommend logs a warning, because scores
                may differ in the last digits.

All other JAX settings concern devices, caches, checks, logs or features that are not used here.
tests/core/test_jax_settings.py fails if a new version of JAX adds a setting that may matter.
"""

import enum
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax

log = logging.getLogger(__name__)

KEY_IMPL = "threefry2x32"  # implementation of random keys; dropout uses a key's two words

PINNED: dict[str, Any] = {
    "jax_default_prng_impl": KEY_IMPL,
    "jax_disable_jit": False,  # the training step is compiled ahead of time
    "jax_enable_x64": False,
    "jax_explicit_x64_dtypes": "warn",
    "jax_high_dynamic_range_gumbel": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_random_seed_offset": 0,  # config.seed alone determines the seed
    "jax_softmax_custom_jvp": False,
    "jax_threefry_partitionable": True,
}
# The PINNED settings that matter when no random numbers or gradients are computed. JAX can set them
# temporarily and for one thread.
WHILE_RANKING = {
    jax.disable_jit: False,
    jax.enable_x64: False,
    jax.numpy_dtype_promotion: "standard",
    jax.numpy_rank_promotion: "allow",
}
RECORDED = (
    "eager_constant_folding",
    "jax_compiler_enable_remat_pass",
    "jax_cpu_collectives_implementation",
    "jax_custom_vjp3",
    "jax_default_matmul_precision",
    "jax_disable_most_optimizations",
    "jax_embedded_constants_max_bytes",
    "jax_enable_pgle",
    "jax_exec_time_optimization_effort",
    "jax_memory_fitting_effort",
    "jax_memory_fitting_level",
    "jax_optimization_level",
    "jax_remat3",
    "jax_scan3",
    "jax_use_direct_linearize",
    "jax_use_shardy_partitioner",
    "jax_use_simplified_jaxpr_constants",
)
XLA_FLAGS = "XLA_FLAGS"
VARIABLES = (XLA_FLAGS, "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
# XLA flags that do not affect results, or that a run may change, such as the number of devices.
HARMLESS = ("--xla_dump_", "--xla_force_host_platform_device_count")


def pin() -> None:
    """Set every PINNED setting for the whole process and warn about those with another value.

    Called when a command starts. Settings that the installed JAX does not have are skipped.
    """
    for name, value in PINNED.items():
        if name in jax.config.values and (current := _value(name)) != value:
            log.warning(
                "WARNING: %s=%s is ignored: genrec_jax needs %s", name.upper(), current, value
            )
            jax.config.update(name, value)


@contextmanager
def pinned() -> Iterator[None]:
    """Apply the WHILE_RANKING settings inside the block, in this thread only.

    Ranking then returns the same results as in a command.
    """
    with ExitStack() as stack:
        for setting, value in WHILE_RANKING.items():
            stack.enter_context(setting(value))
        yield


def random_key(seed: int) -> jax.Array:
    """Return the random key of a seed, with KEY_IMPL whatever JAX's default implementation is."""
    return jax.random.key(seed, impl=KEY_IMPL)


def recorded() -> dict[str, Any]:
    """Return this process's values of the RECORDED settings and of VARIABLES, as a JSON object.

    Settings that the installed JAX does not have are left out.
    """
    settings = {name: _value(name) for name in RECORDED if name in jax.config.values}
    variables = {name: os.environ.get(name, "") for name in VARIABLES}
    return {**settings, **variables, XLA_FLAGS: _xla_flags(variables[XLA_FLAGS])}


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each setting that differs between this process and a run.

    Settings that only one of them has are ignored, because each version of JAX has its own.

    Args:
        found: this process's settings, as returned by `recorded`.
        expected: the settings that the run was started with.
    """
    return [
        f"{name.upper()} is {_shown(value)} in this process, {_shown(expected[name])} in the run"
        for name, value in found.items()
        if name in expected and value != expected[name]
    ]


def _value(name: str) -> Any:
    # Some settings are in `values` only and are not attributes of jax.config.
    value = getattr(jax.config, name, jax.config.values[name])
    return value.name.lower() if isinstance(value, enum.Enum) else value


def _shown(value: Any) -> str:
    return "not set" if value in (None, "") else repr(value)


def _xla_flags(text: str) -> str:
    """Return the flags that may affect results, sorted; the last value of a repeated flag counts.

    Args:
        text: the value of XLA_FLAGS: flags, or the path of a file of flags.
    """
    if text and not text.lstrip().startswith("-") and Path(text).is_file():
        text = Path(text).read_text()
    flags = {name: value for name, _, value in (flag.partition("=") for flag in text.split())}
    kept = sorted(name for name in flags if not name.startswith(HARMLESS))
    return " ".join(f"{name}={flags[name] or 'true'}" for name in kept)
