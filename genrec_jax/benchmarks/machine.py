"""The machine of a measurement, and timing."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

DTYPES = ("float32", "bfloat16")  # values of --dtype


def describe_machine() -> str:
    """Return three lines with the processor, the devices and the versions."""
    packages = ("jax", "jaxlib", "flax", "optax", "torch", "transformers")
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    device = jax.devices()[0]
    return (
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}\n"
        f"{len(jax.devices())} × {device.device_kind} ({device.platform})\n"
        f"Python {platform.python_version()}, {versions}"
    )


def seconds(run: Callable[[], Any], repeats: int, warm_up: bool = True) -> float:
    """Return the shortest time of `repeats` runs, after a warm-up run that compiles."""
    if warm_up:
        jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "processor unknown"
