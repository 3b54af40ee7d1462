"""Inference that also says where the model looked: the last spatial gate, and Grad-CAM."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from cbam_flax.models import ops
from cbam_flax.models.cbam_resnet import CBAMResNet
from cbam_flax.models.inference import in_chunks, layer_names, part


class Inference(NamedTuple):
    """Logits and maps of a batch; the maps are float32 `(B, h, w)`, of the last block.

    Attributes:
        logits: as `CBAMResNet` gives them.
        gate: the spatial gate in (0, 1); None for a model without one.
        grad_cam: a function of float weights, shaped as the logits, to the Grad-CAM of the
            weighted sum of the logits: ones for a single finding, one-hot rows for one of several.
    """

    logits: jax.Array
    gate: jax.Array | None
    grad_cam: Callable[[jax.Array], jax.Array]


def infer_with_maps(
    model: CBAMResNet, variables: Mapping[str, Any], images: jax.Array
) -> Inference:
    """Inference that keeps the last block's output, of which Grad-CAM is (Selvaraju et al. 2017,
    equations 1 and 2).

    The gradient runs back through the layers after that block alone.

    Args:
        images: as `CBAMResNet` takes them.

    Raises:
        ValueError: as `CBAMResNet`.
    """
    model.check(images)
    names = layer_names(model)
    last = f"block{len(model.stages)}"
    after = names.index(last) + 1
    upto, behind = part(model, names[:after]), part(model, names[after:])

    def look(images: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        block, sown = upto.apply(variables, images, mutable=["intermediates"])
        gates = sown.get("intermediates", {}).get(last, {}).get("cbam", {}).get("spatial")
        gate = None if gates is None else gates["gate"][0][..., 0].astype(jnp.float32)
        return ops.array(block), gate

    activation, gate = in_chunks(model, look, images.astype(model.dtype))

    def rest(x: jax.Array) -> jax.Array:
        return cast(jax.Array, behind.apply(variables, x))

    logits, gradient_of = jax.vjp(rest, activation)

    def grad_cam(of: jax.Array) -> jax.Array:
        (gradient,) = gradient_of(of.astype(logits.dtype))
        weights = gradient.mean(axis=(1, 2), keepdims=True)
        return nn.relu((weights * activation).sum(axis=-1)).astype(jnp.float32)

    return Inference(logits, gate, grad_cam)


def highest(scores: jax.Array) -> jax.Array:
    """Weights for `grad_cam`: ones `(B,)`, or one-hot `(B, k)` of each image's highest score."""
    if scores.ndim == 1:
        return jnp.ones_like(scores)
    return jax.nn.one_hot(scores.argmax(axis=-1), scores.shape[-1])
