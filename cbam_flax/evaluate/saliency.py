"""Saliency maps: attention, Grad-CAM and occlusion, without any training on boxes.

A map is float32 (B, h, w), higher where the image matters more, at the resolution of the last
block (1/8 of the image); cell (i, j) covers rows i S/h to (i+1) S/h. Images are uint8 (B, S, S).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cbam_flax.models import CBAMResNet, highest, infer_with_maps
from cbam_flax.step import eval_step, scale_images

Variables = dict[str, Any]
OCCLUDER = 0.25  # side of the occluding square, of the image's
OCCLUSION_GRID = 8  # positions of the square along each side


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


def occlusion(model: CBAMResNet, variables: Variables, images: jax.Array) -> jax.Array:
    """How far the logit falls when a square of the image's mean grey covers each position
    (Zeiler and Fergus 2014, section 4.2); 0 where it rises."""
    size = images.shape[1]
    pixel = (jnp.arange(size) + 0.5) / size
    centre = (jnp.arange(OCCLUSION_GRID) + 0.5) / OCCLUSION_GRID
    near = jnp.abs(pixel[None, :] - centre[:, None]) <= OCCLUDER / 2  # (grid, S)

    covered = [row[:, None] & column[None, :] for row in near for column in near]
    logits = jnp.stack([_logits_without(model, variables, images, mask) for mask in covered])
    fall = _logits_without(model, variables, images, jnp.zeros_like(covered[0])) - logits
    return nn.relu(fall).T.reshape(-1, OCCLUSION_GRID, OCCLUSION_GRID)


@functools.partial(jax.jit, static_argnums=0)
def _logits_without(
    model: CBAMResNet, variables: Variables, images: jax.Array, covered: jax.Array
) -> jax.Array:
    """Logits (B,) with the image's mean grey where `covered`, bool (S, S), is True."""
    grey = images.mean(axis=(1, 2), keepdims=True).astype(images.dtype)
    return eval_step(variables, jnp.where(covered, grey, images), model=model)


METHODS: dict[str, Callable[..., jax.Array]] = {
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
