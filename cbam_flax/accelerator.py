"""Whether JAX uses the GPU that the machine has; JAX itself falls back to the CPU in silence."""

import importlib.util
import os
from pathlib import Path

GPU_FILES = "nvidia[0-9]*"  # of NVIDIA's driver, one a GPU; a container has those that it was given
PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def unused_gpu(platform: str, files: Path = Path("/dev")) -> str | None:
    """One sentence if this machine has NVIDIA GPUs that JAX does not use, else None.

    A user who set JAX_PLATFORMS or hid the GPUs with CUDA_VISIBLE_DEVICES meant it.

    Args:
        platform: what JAX computes on, `jax.default_backend()`.
        files: the folder of device files.
    """
    meant = os.environ.get("JAX_PLATFORMS") or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    count = len(list(files.glob(GPU_FILES)))
    if platform != "cpu" or meant or not count:
        return None
    found = f"this machine has {count} NVIDIA GPU{'s' * (count > 1)}, but JAX computes on the CPU: "
    if not any(map(importlib.util.find_spec, PLUGINS)):
        return found + "its CUDA plugin is not installed; pip install -r requirements-cuda.txt"
    return (
        found + "its CUDA plugin does not start; JAX_PLATFORMS=cuda makes it say why (docs/gpu.md)"
    )
