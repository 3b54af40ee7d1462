"""The map beside a score: which method, how occlusion is computed, what is known of its merit.

A map is float32 (h, w) over the square that the model saw, higher where the image matters more.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from cbam_flax.predict.scores import findings
from data_prep import cli

# Name on the command line and in bundle.json -> for people: the map, its unit, and why it is blank.
TITLES = {"gate": "spatial gate", "grad_cam": "Grad-CAM", "occlusion": "occlusion"}
UNITS = {"gate": "0 closed, 1 open", "grad_cam": "no unit", "occlusion": "fall of the logit"}
BLANK = {
    "gate": "the spatial gate is equally open everywhere",
    "grad_cam": "Grad-CAM is zero everywhere: nothing in the last block raised the score",
    "occlusion": "occlusion is zero everywhere: covering no part lowered the score",
}
OUTPUTS = {"gate": "attention", "grad_cam": "grad_cam"}  # of the bundle's function
OCCLUDER = 0.25  # side of the occluding square, of the image's
OCCLUSION_GRID = 8  # positions of the square along each side
PASSES = OCCLUSION_GRID**2 + 1  # of the model for one occlusion map


def choose(bundle: dict[str, Any], wanted: str | None) -> str:
    """The method: `wanted`, or the bundle's own, which for one without a choice is the gate.

    Raises:
        UserError: the bundle has no Grad-CAM.
    """
    method = wanted or (bundle.get("saliency") or {}).get("method", "gate")
    if method == "grad_cam" and "grad_cam" not in bundle["outputs"]:
        raise cli.UserError(
            "the bundle was exported by an older version, without Grad-CAM; give "
            "--saliency=gate or --saliency=occlusion, or export it again"
        )
    return method


def merit(bundle: dict[str, Any], method: str) -> str:
    """How well the method's maps point at radiologists' boxes, for people."""
    saliency = bundle.get("saliency") or {"pointing": {}}
    if method not in saliency["pointing"]:
        return "where it looks was not evaluated"
    figure = saliency["pointing"][method]
    value, low, high = (f"{100 * figure[key]:.0f}" for key in ("value", "low", "high"))
    images = f"{saliency['images']:,} positive images"
    return f"its maximum lay in a box in {value} % ({low} to {high}) of {images}"


def occlusion(
    logits: Callable[[np.ndarray], np.ndarray],
    before: np.ndarray,
    images: np.ndarray,
    squares: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]] = iter,
) -> np.ndarray:
    """How far the logit falls when a square of the image's mean grey covers each position
    (Zeiler and Fergus 2014, section 4.2); 0 where it rises.

    Args:
        logits: uint8 (N, S, S) -> (N,).
        before: (N,), of the images as they are.
        images: uint8 (N, S, S).
        squares: shows progress over the positions.

    Returns:
        float32 (N, 8, 8).
    """
    grey = images.mean(axis=(1, 2), keepdims=True).astype(np.uint8)
    falls = [
        np.maximum(before - logits(np.where(covered, grey, images)), 0)
        for covered in squares(_squares(images.shape[1]))
    ]
    return np.stack(falls, axis=1).reshape(-1, OCCLUSION_GRID, OCCLUSION_GRID).astype(np.float32)


def _squares(size: int) -> list[np.ndarray]:
    """What each position of the square covers: bool (S, S), row by row."""
    pixel = (np.arange(size) + 0.5) / size
    centre = (np.arange(OCCLUSION_GRID) + 0.5) / OCCLUSION_GRID
    near = np.abs(pixel - centre[:, None]) <= OCCLUDER / 2
    return [row[:, None] & column for row in near for column in near]


def maps(
    bundle: dict[str, Any],
    method: str,
    run: Callable[[np.ndarray], dict[str, np.ndarray]],
    images: np.ndarray,
    outputs: dict[str, np.ndarray],
) -> np.ndarray:
    """The maps of a batch, float32 (N, h, w); 1 x 1 for the gate of a model without one.

    Args:
        run: the bundle's function: uint8 (N, S, S) -> its outputs.
        images: uint8 (N, S, S).
        outputs: of these images.
    """
    if method in OUTPUTS:
        return outputs[OUTPUTS[method]]
    explained = outputs["probability"].reshape(len(images), -1).argmax(axis=1)
    lines = bundle["calibration"]
    lines = [lines[name] for name in findings(bundle)] or [lines]
    scale, bias = (np.array([one[key] for one in lines])[explained] for key in ("scale", "bias"))

    def logit(outputs: dict[str, np.ndarray]) -> np.ndarray:
        chances = outputs["probability"].reshape(len(images), -1).astype(np.float64)
        # A float32 probability of 1 has lost its logit: the largest below it has 17.
        chance = chances[np.arange(len(images)), explained].clip(1e-37, 1 - 2.0**-24)
        return (np.log(chance) - np.log1p(-chance) - bias) / scale

    def progress(positions: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
        return cli.progress(positions, "occlusion maps", unit="position", delay=3, leave=False)

    return occlusion(lambda covered: logit(run(covered)), logit(outputs), images, progress)
