"""The model: creation, inference, attention maps, the kernel penalty."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cbam_flax.models.cbam_resnet import CBAMResNet
from cbam_flax.models.inference import infer
from cbam_flax.models.ops import ops_for
from cbam_flax.models.saliency import highest, infer_with_maps

__all__ = [
    "CBAMResNet",
    "attention_maps",
    "block_kernel_l2",
    "create_model",
    "highest",
    "infer",
    "infer_with_maps",
]

Variables = Mapping[str, Any]


def create_model(
    config: Mapping[str, Any],
    platform: str | None = None,
    images_per_device: int = 1,
    rows: int | None = None,
    split: bool = False,
) -> CBAMResNet:
    """The model that `config.model` describes; keys left out take `CBAMResNet`'s defaults.

    Args:
        config: `dtype="auto"` means bfloat16 on a TPU or a GPU, else float32; `findings=0`, as many
            as the data have, is 1 here, where there are no data.
        platform: "cpu", "gpu" or "tpu", whose implementations of the ops the model uses; by default
            the one that JAX runs on. "any": the reference ops, for export.
        images_per_device: in a step. Affects TPU speed, never the result. The default suits
            small batches.
        rows: of pixels of each of these images, if known. Affects TPU speed, never the result.
        split: devices share each image, so XLA must be able to split the ops over rows.

    Raises:
        ValueError: an unknown key, or a value that its switch does not know.
    """
    settings = dict(config)
    platform = platform or jax.default_backend()
    keys = {field.name for field in dataclasses.fields(CBAMResNet)} - {"stage_ops"}
    unknown = settings.keys() - keys
    if unknown:
        raise ValueError(f"the model config has unknown keys: {', '.join(sorted(unknown))}")
    if settings.get("dtype") == "auto":
        settings["dtype"] = "bfloat16" if platform in ("tpu", "gpu") else "float32"
    if settings.get("findings") == 0:
        settings["findings"] = 1
    for key in settings.keys() & {"dtype", "param_dtype"}:
        settings[key] = jnp.dtype(settings[key])
    for key in settings.keys() & {"stages", "dilations"}:
        settings[key] = tuple(settings[key])
    return CBAMResNet(**settings, stage_ops=ops_for(platform, images_per_device, rows, split))


def attention_maps(
    model: CBAMResNet, variables: Variables, images: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Inference that also returns the spatial gates.

    Returns:
        Logits as `CBAMResNet` gives them and, per block ("block1", ...), its gate `(B, h, w)` in
        (0, 1) at that block's resolution; an empty dict for a model without spatial gates.
    """
    logits, sown = model.apply(variables, images, train=False, mutable=["intermediates"])
    gates = {
        block: modules["cbam"]["spatial"]["gate"][0][..., 0]
        for block, modules in sown.get("intermediates", {}).items()
        if "spatial" in modules["cbam"]
    }
    return logits, gates


def block_kernel_l2(params: Mapping[str, Any]) -> jax.Array:
    """Sum of squares of the eight 3x3 kernels of the residual blocks, a scalar in their dtype.

    The notebook adds 0.001 times this to its loss.
    """
    kernels = [
        layers[conv]["kernel"]
        for name, layers in params.items()
        if name.startswith("block")
        for conv in ("conv1", "conv2")
    ]
    return jnp.sum(jnp.stack([jnp.sum(jnp.square(kernel)) for kernel in kernels]))
