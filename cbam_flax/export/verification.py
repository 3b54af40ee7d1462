"""Every artefact of a bundle against the training code, on fixed images, each in a new process."""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from cbam_flax.evaluate import ensemble
from cbam_flax.export import artefacts
from cbam_flax.models import CBAMResNet, infer_with_maps
from cbam_flax.predict import bundle as bundle_lib
from cbam_flax.predict import runtimes
from data_prep import cli

TOLERANCE = 1e-4  # the largest difference from the training code that an artefact may show
OTHER_BRANCH = "jax:cuda"  # of model.stablehlo, for all platforms but CPUs
RUNS = (*bundle_lib.ARTEFACTS, OTHER_BRANCH)


def check_images(image_size: int, count: int = 5) -> np.ndarray:
    """The fixed images on which artefacts are compared: float32 (count, S, S, 1) in [0, 1].

    Noise at halving wavelengths and amplitudes, so that every layer sees structure at its scale.
    """
    rng = np.random.default_rng(0)
    images = np.zeros((count, image_size, image_size), np.float32)
    for octave in range(1, 7):
        for image in images:
            cells = rng.uniform(-1, 1, (2**octave, 2**octave)).astype(np.float32)
            image += cv2.resize(cells, image.shape, interpolation=cv2.INTER_CUBIC) / 2**octave
    return np.clip(0.5 + images, 0, 1)[..., None]


def training_code(
    members: Sequence[artefacts.Member],
    calibration: dict[str, Any],
    images: np.ndarray,
    combine: str = "logit",
    tta: str | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What evaluation computes for float32 images (B, S, S, 1): the models, and the rest in numpy.

    Independent of `artefacts.inference_function`, so that a mistake there shows as a difference.

    Returns:
        The outputs, and what a difference of 1 means for those that have no range of their own:
        of `grad_cam` the largest value before its ReLU, on either side of zero.
    """
    views = [images, images[:, :, ::-1]] if tta else [images]
    logits = []
    for model, variables in members:
        apply = jax.jit(model.apply)
        of_views = [np.asarray(apply(variables, view), np.float64) for view in views]
        logits.append(np.mean(of_views, axis=0))

    def line(logit: np.ndarray) -> np.ndarray:
        return calibration["scale"] * logit + calibration["bias"]

    score = line(ensemble.combined(np.stack(logits), combine))
    explained = np.eye(score.shape[1])[score.argmax(axis=1)] if score.ndim > 1 else score**0
    gates, maps = zip(*(_maps(*member, images, explained) for member in members), strict=True)
    for_it, against_it = np.mean(maps, axis=0)
    without_gate = any(gate is None for gate in gates)
    outputs = {
        "probability": scipy.special.expit(score),
        "attention": np.zeros((len(images), 1, 1)) if without_gate else np.mean(gates, axis=0),
        "grad_cam": for_it,
    }
    if len(members) > 1:
        outputs["spread"] = np.std(scipy.special.expit(line(np.stack(logits))), axis=0)
    return outputs, {"grad_cam": float(max(for_it.max(), against_it.max()))}


@functools.partial(jax.jit, static_argnums=0)
def _maps(
    model: CBAMResNet, variables: dict[str, Any], images: jax.Array, explained: jax.Array
) -> tuple[jax.Array | None, jax.Array]:
    """The gate, and Grad-CAM of what raises and of what lowers the score, (2, B, h, w)."""
    found = infer_with_maps(model, variables, images)
    return found.gate, jnp.stack([found.grad_cam(explained), found.grad_cam(-explained)])


def verify(
    folder: pathlib.Path,
    images: np.ndarray,
    expected: dict[str, np.ndarray],
    units: dict[str, float],
) -> dict[str, Any]:
    """Runs each artefact, and each branch of `model.stablehlo`, in a fresh process.

    Args:
        folder: holds the artefacts.
        images: float32 (B, S, S, 1).
        expected, units: what the training code gives for them, as `training_code` returns it.

    Returns:
        `max_difference` by artefact, and for `model.stablehlo` by platform in `platforms`, with
        what it was run on: the branch of GPUs and TPUs runs on a CPU too.

    Raises:
        UserError: an artefact does not run, or differs by more than `TOLERANCE`.
    """
    found = {}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor() as pool:
        inputs = pathlib.Path(scratch) / "images.npy"
        np.save(inputs, images)
        outputs_of_all = pool.map(functools.partial(_run_alone, folder, inputs), RUNS)
        results = cli.progress(outputs_of_all, "verifying", len(RUNS), unit="run")
        for run, outputs in zip(RUNS, results, strict=True):
            found[run] = max(
                float(np.abs(outputs[key] - value).max()) / (units.get(key) or 1)
                for key, value in expected.items()
            )
            # Written so that a NaN fails too.
            if not found[run] <= TOLERANCE:
                raise cli.UserError(
                    f"{_of_run(run)} differs from the training code by {found[run]:.2g}, more than "
                    f"{TOLERANCE:g}; nothing was exported"
                )
    differences = {name: found[runtime] for runtime, name in bundle_lib.ARTEFACTS.items()}
    platforms = {"cpu": found["jax"]} | dict.fromkeys(("cuda", "tpu"), found[OTHER_BRANCH])
    return {
        "max_difference": differences | {"model.stablehlo": max(platforms.values())},
        "platforms": {
            name: {"max_difference": value, "run_on": "cpu", "compiled": name == "cpu"}
            for name, value in platforms.items()
        },
    }


def _of_run(run: str) -> str:
    """The artefact that one of `RUNS` runs, in words."""
    runtime, _, branch = run.partition(":")
    name = bundle_lib.ARTEFACTS[runtime]
    return f"what {name} holds for GPUs and TPUs" if branch else name


def _run_alone(folder: pathlib.Path, inputs: pathlib.Path, runtime: str) -> dict[str, np.ndarray]:
    """The outputs of one of `RUNS`, from a process that can import nothing of this project."""
    name = bundle_lib.ARTEFACTS[runtime.partition(":")[0]]
    outputs = inputs.with_name(f"{runtime.replace(':', '-')}.npz")
    process = subprocess.run(
        [
            *(sys.executable, "-P", runtimes.__file__),
            *(runtime, str(folder / name), str(inputs), str(outputs)),
        ],
        # On the CPU, like the expected values: rounding differs more between platforms.
        env=os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise cli.UserError(f"{_of_run(runtime)} was written but does not run: {last}")
    with np.load(outputs) as arrays:
        return dict(arrays)
