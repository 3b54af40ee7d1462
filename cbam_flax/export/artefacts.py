"""Model and parameters -> StableHLO, ONNX and SavedModel, each one function for any batch size."""

import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cbam_flax.predict.bundle import ARTEFACTS
from data_prep import cli

if TYPE_CHECKING:
    import jax

    from cbam_flax.models.cbam_resnet import CBAMResNet

OUTPUTS = ("probability", "attention", "grad_cam", "spread")
Member: TypeAlias = tuple["CBAMResNet", dict[str, Any]]  # a model and its variables
PLATFORMS = ("cpu", "cuda", "tpu")
SOURCE_FOLDERS = r".*/(?=[^/]+/[^/]+$)"  # all but the last: models/attention.py


def inference_function(
    members: Sequence[Member],
    calibration: dict[str, Any],
    combine: str = "logit",
    tta: str | None = None,
) -> Callable[["jax.Array"], dict[str, "jax.Array"]]:
    """What every artefact computes, with the parameters as constants.

    The function takes images, float32 (B, S, S, 1) in [0, 1], and returns, all float32:

    - `probability` (B,) = sigmoid(scale * logit + bias), or (B, k) of several findings with float32
      (k,) `scale` and `bias`. Of several members the logit is combined as
      `evaluate.ensemble.combined` does it.
    - `attention` (B, h, w), the last block's spatial gate in [0, 1], of several members the mean;
      all zeros with h = w = 1 unless all have one.
    - `grad_cam` (B, h, w), Grad-CAM of the last block's output for the logit, of several members
      the mean; of several findings for the one with the highest probability.
    - `spread`, of several members only: as in `evaluate.ensemble.spread`, shaped as the
      probability.

    The maps are of the image as it is, also with `tta`.

    Args:
        members: models with their variables.
        combine, tta: as of `evaluate.ensemble.Ensemble`.
    """
    import jax
    import jax.numpy as jnp

    from cbam_flax.models import highest, infer_with_maps

    def line(logits: jax.Array) -> jax.Array:
        return calibration["scale"] * logits + calibration["bias"]

    def infer(images: jax.Array) -> dict[str, jax.Array]:
        found = [infer_with_maps(*member, images) for member in members]
        logits = [one.logits for one in found]
        if tta:
            flipped = [infer_with_maps(*member, images[:, :, ::-1]).logits for member in members]
            logits = [(logit + other) / 2 for logit, other in zip(logits, flipped, strict=True)]
        score = line(_combined(logits, combine))
        explained = highest(score)
        gates = [one.gate for one in found if one.gate is not None]
        if len(gates) < len(members):
            gates = [jnp.zeros((images.shape[0], 1, 1))]
        outputs = {
            "probability": jax.nn.sigmoid(score),
            "attention": jnp.stack(gates).mean(axis=0),
            "grad_cam": jnp.stack([one.grad_cam(explained) for one in found]).mean(axis=0),
        }
        if len(members) > 1:
            outputs["spread"] = jax.nn.sigmoid(line(jnp.stack(logits))).std(axis=0)
        return {name: output.astype(jnp.float32) for name, output in outputs.items()}

    # Full float32 on GPU and TPU too, where the default would be TF32 or bfloat16 passes.
    return jax.default_matmul_precision("highest")(infer)


def function_by_platform(
    members: Sequence[Member],
    calibration: dict[str, Any],
    combine: str = "logit",
    tta: str | None = None,
) -> Callable[["jax.Array"], dict[str, "jax.Array"]]:
    """`inference_function` with a branch for CPUs, whose ops are those that training uses there.

    The other platforms share the members' own ops. Only JAX's export can hold both branches. The
    parameters are operands of the branches, so that they are stored once.
    """
    import jax

    from cbam_flax.models.ops import ops_for

    models, variables = zip(*members, strict=True)
    on_cpu = [model.clone(stage_ops=ops_for("cpu")) for model in models]

    def branch(models: Sequence["CBAMResNet"]) -> Callable[..., dict[str, "jax.Array"]]:
        def infer(variables: Sequence[dict[str, Any]], images: jax.Array) -> dict[str, jax.Array]:
            members = list(zip(models, variables, strict=True))
            return inference_function(members, calibration, combine, tta)(images)

        return infer

    def infer(images: jax.Array) -> dict[str, jax.Array]:
        return jax.lax.platform_dependent(
            variables, images, cpu=branch(on_cpu), default=branch(models)
        )

    return infer


def _combined(logits: Sequence["jax.Array"], combine: str) -> "jax.Array":
    import jax
    import jax.numpy as jnp

    if len(logits) == 1:
        return logits[0]
    several = jnp.stack(logits)
    if combine == "logit":
        return several.mean(axis=0)
    positive, negative = (jax.nn.sigmoid(each).mean(axis=0) for each in (several, -several))
    return jnp.log(positive) - jnp.log(negative)


def write(
    folder: pathlib.Path,
    infer: Callable[..., Any],
    infer_by_platform: Callable[..., Any],
    image_size: int,
) -> None:
    """Writes `model.stablehlo`, `model.onnx` and `saved_model/`, each for any batch size.

    Args:
        infer: of `inference_function`.
        infer_by_platform: of `function_by_platform`, for `model.stablehlo`.
    """
    import jax

    # StableHLO and SavedModel carry each operation's source file; strip this machine's folders.
    jax.config.update("jax_hlo_source_file_canonicalization_regex", SOURCE_FOLDERS)
    writers = {
        "jax": (write_stablehlo, infer_by_platform),
        "onnx": (write_onnx, infer),
        "tensorflow": (write_saved_model, infer),
    }
    for runtime, (write_one, of) in cli.progress(writers.items(), "writing", unit="artefact"):
        write_one(folder / ARTEFACTS[runtime], of, image_size)


def write_stablehlo(path: pathlib.Path, infer: Callable[..., Any], image_size: int) -> None:
    import jax
    import jax.export

    shape = jax.export.symbolic_shape(f"batch, {image_size}, {image_size}, 1")
    images = jax.ShapeDtypeStruct(shape, np.float32)
    exported = jax.export.export(jax.jit(infer), platforms=PLATFORMS)(images)
    path.write_bytes(exported.serialize())


def write_onnx(path: pathlib.Path, infer: Callable[..., Any], image_size: int) -> None:
    import jax
    import onnx
    from jax2onnx import to_onnx
    from jax2onnx.plugins.jax.lax import conv

    # The gradient of a convolution reads the kernel with its channels swapped. The converter can
    # transpose any layout, but its table lacks the name of this one.
    conv._FILTER_LAYOUT_MAP.setdefault((2, 3, 0, 1), "HWOI")
    # It warns about shapes that it leaves out; onnxruntime infers them.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    shape = jax.export.symbolic_shape(f"batch, {image_size}, {image_size}, 1")
    images = jax.ShapeDtypeStruct(shape, np.float32)
    # Traced here, because jax2onnx traces with layers of its own, which have no gradient.
    traced, outputs = jax.make_jaxpr(infer, return_shape=True)(images)
    names = [name for name in OUTPUTS if name in outputs]

    def ordered(images: Any) -> tuple[Any, ...]:
        values = jax.core.eval_jaxpr(traced.jaxpr, traced.consts, images)
        found = jax.tree.unflatten(jax.tree.structure(outputs), values)
        return tuple(found[name] for name in names)

    model = to_onnx(
        ordered,
        [images],
        model_name="cbam_flax",
        input_names=["images"],
        output_names=names,
    )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_saved_model(path: pathlib.Path, infer: Callable[..., Any], image_size: int) -> None:
    """Writes the signature `serving_default`: `images` -> the outputs of `infer`."""
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
