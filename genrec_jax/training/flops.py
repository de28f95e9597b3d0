"""The peak arithmetic rate of devices, to compare with the model FLOPs that families compute."""

import jax

# bfloat16 operations per second without sparsity, from data sheets, by `device_kind`.
PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


def device_peak(dtype: str) -> float | None:
    """Return the peak operations per second of all devices together; None if unknown."""
    kind = jax.devices()[0].device_kind
    if dtype != "bfloat16" or kind not in PEAKS:
        return None
    return PEAKS[kind] * jax.device_count()
