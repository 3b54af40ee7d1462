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

OUTPUTS = ("probability", "attention", "spread")
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

    The function takes images, float32 (B, S, S, 1) in [0, 1], and returns `probability` (B,) =
    sigmoid(scale * logit + bias), or (B, k) of several findings with float32 (k,) `scale` and
    `bias`, and `attention` (B, h, w), the last block's spatial gate in [0, 1], all zeros with
    h = w = 1 for a model without one; both float32. Of several members the logit is combined as
    `evaluate.ensemble.combined` does it, the gate is the mean (zeros unless all have one), and
    there is also `spread`, shaped as the probability, as in `evaluate.ensemble.spread`.

    Args:
        members: models with their variables.
        combine, tta: as of `evaluate.ensemble.Ensemble`.
    """
    import jax
    import jax.numpy as jnp

    from cbam_flax.models import attention_maps

    def score(member: Member, images: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        logits, maps = attention_maps(*member, images)
        if tta:
            flipped, _ = attention_maps(*member, images[:, :, ::-1])
            logits = (logits + flipped) / 2
        return logits, maps[max(maps)] if maps else None

    def calibrated(logits: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(calibration["scale"] * logits + calibration["bias"])

    def infer(images: jax.Array) -> dict[str, jax.Array]:
        # Full float32 on GPU and TPU too, where the default would be TF32 or bfloat16 passes.
        with jax.default_matmul_precision("highest"):
            scores = [score(member, images) for member in members]
        logits = [logit for logit, _ in scores]
        gates = [gate for _, gate in scores if gate is not None]
        if len(gates) < len(members):
            gates = [jnp.zeros((images.shape[0], 1, 1))]
        outputs = {
            "probability": calibrated(_combined(logits, combine)),
            "attention": jnp.stack(gates).mean(axis=0),
        }
        if len(members) > 1:
            outputs["spread"] = calibrated(jnp.stack(logits)).std(axis=0)
        return {name: output.astype(jnp.float32) for name, output in outputs.items()}

    return infer


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

    # It warns about shapes that it leaves out; onnxruntime infers them.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    one = jax.ShapeDtypeStruct((1, image_size, image_size, 1), np.float32)
    names = [name for name in OUTPUTS if name in jax.eval_shape(infer, one)]

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
