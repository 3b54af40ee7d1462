"""Model and parameters -> StableHLO, ONNX and SavedModel, each one function for any batch size."""

import logging
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cbam_flax.predict.bundle import ARTEFACTS
from data_prep import cli

if TYPE_CHECKING:
    import jax

    from cbam_flax.models.cbam_resnet import CBAMResNet

PLATFORMS = ("cpu", "cuda", "tpu")
SOURCE_FOLDERS = r".*/(?=[^/]+/[^/]+$)"  # all but the last: models/attention.py


def inference_function(
    model: "CBAMResNet", variables: dict[str, Any], calibration: dict[str, Any]
) -> Callable[["jax.Array"], dict[str, "jax.Array"]]:
    """What every artefact computes, with the parameters as constants.

    The function takes images, float32 (B, S, S, 1) in [0, 1], and returns `probability` (B,) =
    sigmoid(scale * logit + bias), or (B, k) of several findings with float32 (k,) `scale` and
    `bias`, and `attention` (B, h, w), the last block's spatial gate in
    [0, 1], all zeros with h = w = 1 for a model without one; both float32.
    """
    import jax
    import jax.numpy as jnp

    from cbam_flax.models import attention_maps

    def infer(images: jax.Array) -> dict[str, jax.Array]:
        # Full float32 on GPU and TPU too, where the default would be TF32 or bfloat16 passes.
        with jax.default_matmul_precision("highest"):
            logits, maps = attention_maps(model, variables, images)
        gate = maps[max(maps)] if maps else jnp.zeros((images.shape[0], 1, 1))
        logits = calibration["scale"] * logits + calibration["bias"]
        return {
            "probability": jax.nn.sigmoid(logits).astype(jnp.float32),
            "attention": gate.astype(jnp.float32),
        }

    return infer


def write(folder: pathlib.Path, infer: Callable[..., Any], image_size: int) -> None:
    """Writes `model.stablehlo`, `model.onnx` and `saved_model/`, each for any batch size."""
    import jax

    # StableHLO and SavedModel carry each operation's source file; strip this machine's folders.
    jax.config.update("jax_hlo_source_file_canonicalization_regex", SOURCE_FOLDERS)
    writers = {"jax": write_stablehlo, "onnx": write_onnx, "tensorflow": write_saved_model}
    for runtime, write_one in cli.progress(writers.items(), "writing", unit="artefact"):
        write_one(folder / ARTEFACTS[runtime], infer, image_size)


def write_stablehlo(path: pathlib.Path, infer: Callable[..., Any], image_size: int) -> None:
    import jax
    import jax.export

    shape = jax.export.symbolic_shape(f"batch, {image_size}, {image_size}, 1")
    images = jax.ShapeDtypeStruct(shape, np.float32)
    exported = jax.export.export(jax.jit(infer), platforms=PLATFORMS)(images)
    path.write_bytes(exported.serialize())


def write_onnx(path: pathlib.Path, infer: Callable[..., Any], image_size: int) -> None:
    import onnx
    from jax2onnx import to_onnx

    # It warns about shapes that it leaves out; onnxruntime infers them.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    names = ("probability", "attention")

    def ordered(images: Any) -> tuple[Any, ...]:
        outputs = infer(images)
        return tuple(outputs[name] for name in names)

    model = to_onnx(
        ordered,
        [("batch", image_size, image_size, 1)],
        model_name="cbam_flax",
        input_names=["images"],
        output_names=names,
    )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_saved_model(path: pathlib.Path, infer: Callable[..., Any], image_size: int) -> None:
    """Writes the signature `serving_default`: `images` -> `probability`, `attention`."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    converted = jax2tf.convert(
        infer,
        polymorphic_shapes=[f"(batch, {image_size}, {image_size}, 1)"],
        with_gradient=False,
        native_serialization_platforms=PLATFORMS,
    )
    spec = tf.TensorSpec([None, image_size, image_size, 1], tf.float32, name="images")
    module = tf.Module()
    module.serve = tf.function(converted, autograph=False, input_signature=[spec])
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
