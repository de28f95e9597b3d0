"""The switches of JAX and XLA that change numbers: some are pinned, the others are recorded.

JAX reads its switches from the environment (`JAX_ENABLE_X64=1`), and a run that is resumed under
other switches is not, bit for bit, the run that was never stopped. So:

    PINNED      have one right value here. A command sets it (`pin`) and warns where the environment
                has another. Importing genrec_jax changes nothing of JAX: a Ranker
                (decoding/ranker.py) sets those that matter to it only while it works (`pinned`),
                and returns the same rankings whatever the caller's values are.
    RECORDED    are the user's choice, as are the environment VARIABLES. A run's folder stores what
                it was started with: training under other values is refused, and loading the run to
                evaluate or recommend logs a warning, since scores may differ in the last digits.

Every other switch of JAX is about devices, caches, checks, logs or features that are not used here.
tests/core/test_jax_settings.py looks for new ones.
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

KEY_IMPL = "threefry2x32"  # of every random key; dropout reads a key as its two words

PINNED: dict[str, Any] = {
    "jax_default_prng_impl": KEY_IMPL,
    "jax_disable_jit": False,  # the step is compiled ahead of time
    "jax_enable_x64": False,
    "jax_explicit_x64_dtypes": "warn",
    "jax_high_dynamic_range_gumbel": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_random_seed_offset": 0,  # the seed is config.seed
    "jax_softmax_custom_jvp": False,
    "jax_threefry_partitionable": True,
}
# Those of PINNED that matter where nothing is drawn or differentiated. JAX can set them for a
# while, in one thread.
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
# XLA flags that change no number, or, as the number of devices, one that a run may change.
HARMLESS = ("--xla_dump_", "--xla_force_host_platform_device_count")


def pin() -> None:
    """Give each PINNED switch its value, for all of the process; warn of those that had another.

    For the start of a command. A switch that the installed JAX lacks is skipped.
    """
    for name, value in PINNED.items():
        if name in jax.config.values and (found := _value(name)) != value:
            log.warning(
                "WARNING: %s=%s is ignored: genrec_jax needs %s", name.upper(), found, value
            )
            jax.config.update(name, value)


@contextmanager
def pinned() -> Iterator[None]:
    """Within, and in this thread alone, ranking computes as it does in a command."""
    with ExitStack() as stack:
        for switch, value in WHILE_RANKING.items():
            stack.enter_context(switch(value))
        yield


def random_key(seed: int) -> jax.Array:
    """The random key of a seed, of KEY_IMPL whatever JAX's default is."""
    return jax.random.key(seed, impl=KEY_IMPL)


def recorded() -> dict[str, Any]:
    """The RECORDED switches that the installed JAX has, and VARIABLES, with their values; JSON."""
    switches = {name: _value(name) for name in RECORDED if name in jax.config.values}
    variables = {name: os.environ.get(name, "") for name in VARIABLES}
    return {**switches, **variables, XLA_FLAGS: _xla_flags(variables[XLA_FLAGS])}


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """One phrase for each setting that is not the same in both.

    Names that only one of them has do not count: another version of JAX has other switches.

    Args:
        found: by `recorded`, of this process.
        expected: the same of a run.
    """
    return [
        f"{name.upper()} is {_shown(value)} here and {_shown(expected[name])} there"
        for name, value in found.items()
        if name in expected and value != expected[name]
    ]


def _value(name: str) -> Any:
    # Some switches are in the values alone and have no attribute.
    found = getattr(jax.config, name, jax.config.values[name])
    return found.name.lower() if isinstance(found, enum.Enum) else found


def _shown(value: Any) -> str:
    return "not set" if value in (None, "") else repr(value)


def _xla_flags(text: str) -> str:
    """The flags that may change numbers, sorted; of a flag that is given twice, the last."""
    if text and not text.lstrip().startswith("-") and Path(text).is_file():
        text = Path(text).read_text()  # XLA takes the name of a file too
    flags = {name: value for name, _, value in (flag.partition("=") for flag in text.split())}
    kept = sorted(name for name in flags if not name.startswith(HARMLESS))
    return " ".join(f"{name}={flags[name] or 'true'}" for name in kept)
