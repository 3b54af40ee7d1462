"""Saliency maps: attention, Grad-CAM and occlusion, without any training on boxes.

A map is float32 (B, h, w), higher where the image matters more, at the resolution of the last
block (1/8 of the image); cell (i, j) covers rows i S/h to (i+1) S/h. Images are uint8 (B, S, S).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cbam_flax.models import CBAMResNet, highest, infer_with_maps
from cbam_flax.predict.saliency import occlusion as map_of_occlusion
from cbam_flax.step import eval_step, scale_images

Variables = dict[str, Any]


@functools.partial(jax.jit, static_argnums=0)
def attention(model: CBAMResNet, variables: Variables, images: jax.Array) -> jax.Array:
    """The spatial gate of the last block.

    Raises:
        ValueError: the model has no spatial gate.
    """
    gate = infer_with_maps(model, variables, scale_images(images)).gate
    if gate is None:
        raise ValueError(f"attention={model.attention!r} has no spatial gate")
    return gate


@functools.partial(jax.jit, static_argnums=0)
def grad_cam(model: CBAMResNet, variables: Variables, images: jax.Array) -> jax.Array:
    """Grad-CAM of the last block's output; of several findings for that of the highest logit."""
    found = infer_with_maps(model, variables, scale_images(images))
    return found.grad_cam(highest(found.logits))


def occlusion(model: CBAMResNet, variables: Variables, images: np.ndarray) -> np.ndarray:
    """How far the logit falls when a square covers each position, as in predict; of several
    findings the highest logit."""
    before = _logits(model, variables, images)
    chosen = np.asarray(highest(before))

    def logit(logits: jax.Array) -> np.ndarray:
        return (np.asarray(logits) * chosen).reshape(len(images), -1).sum(axis=1)

    def of(covered: np.ndarray) -> np.ndarray:
        return logit(_logits(model, variables, covered))

    return map_of_occlusion(of, logit(before), images)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: CBAMResNet, variables: Variables, images: jax.Array) -> jax.Array:
    return eval_step(variables, images, model=model)


# Names in metrics.json and of `METHODS` -> names in bundle.json and of predict.
NAMES = {"attention": "gate", "grad_cam": "grad_cam", "occlusion": "occlusion"}
METHODS: dict[str, Callable[..., jax.Array | np.ndarray]] = {
    "attention": attention,
    "grad_cam": grad_cam,
    "occlusion": occlusion,
}


def methods_of(model: CBAMResNet) -> list[str]:
    """The methods of `METHODS` that work with this model."""
    has_gate = model.attention in ("spatial", "cbam")
    return [name for name in METHODS if name != "attention" or has_gate]


def maps(
    method: str, model: CBAMResNet, variables: Variables, images: np.ndarray, batch_size: int = 8
) -> np.ndarray:
    """The maps (N, h, w) of many images, a batch at a time on the default device."""
    found = []
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        filled = np.zeros((batch_size, *batch.shape[1:]), np.uint8)
        filled[: len(batch)] = batch
        found.append(jax.device_get(METHODS[method](model, variables, filled))[: len(batch)])
    return np.concatenate(found)
