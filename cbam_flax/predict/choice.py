"""`--runtime=auto`: by a rule, so that the same bundle, machine and number of images always get the
same runtime. `python -m benchmarks.predict` measures what it rests on.
"""

import importlib.util
import os
import pathlib
from typing import Any

from cbam_flax.predict.bundle import ARTEFACTS
from data_prep.cli import UserError

RUNTIMES = ("jax", "onnx")
PACKAGES = {"jax": "jax", "onnx": "onnxruntime"}
FEW = 100  # images, below which ONNX Runtime has finished before JAX has started and caught up


def choose(bundle: dict[str, Any], images: int | None = None) -> str:
    """The runtime that is installed and fastest for this bundle on this machine.

    JAX on a GPU or TPU. On a CPU ONNX Runtime, which starts faster, for fewer than `FEW` images and
    for bundles of older versions, whose `model.stablehlo` does not carry the ops for CPUs; else
    JAX, which computes faster.

    Args:
        bundle: what bundle.json says.
        images: how many are to be scored, if that is known.

    Raises:
        UserError: no runtime is installed that the bundle has an artefact for.
    """
    held = {pathlib.PurePosixPath(file).parts[0] for file in bundle["files"]}
    usable = [
        runtime
        for runtime in RUNTIMES
        if ARTEFACTS[runtime] in held and importlib.util.find_spec(PACKAGES[runtime])
    ]
    if not usable:
        raise UserError(
            "no runtime for this bundle is installed; install onnxruntime, or jax, "
            "as requirements-inference.txt says"
        )
    if len(usable) == 1:
        return usable[0]
    if _on_accelerator():
        return "jax"
    has_cpu_ops = "platforms" in bundle.get("verification", {})
    many = images is None or images >= FEW
    return "jax" if has_cpu_ops and many else "onnx"


def _on_accelerator() -> bool:
    """Whether JAX computes on something else than the CPU.

    Importing JAX to ask costs most of a second, so it is asked only where a package for GPUs
    (below `jax_plugins`) or TPUs is installed.
    """
    installed = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    if not installed or os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    import jax

    try:
        return jax.default_backend() != "cpu"
    except RuntimeError:  # a platform that JAX_PLATFORMS demands is not there; JAX itself says it
        return True
