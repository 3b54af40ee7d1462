"""Checkpoint -> inference bundle: StableHLO, ONNX and SavedModel with the same numbers inside."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cbam_flax import bundle as bundle_lib
from cbam_flax import runtimes
from data_prep import cli

if TYPE_CHECKING:
    import jax

    from cbam_flax.models.cbam_resnet import CBAMResNet

TOLERANCE = 1e-4  # the largest difference from the training code that an artefact may show
PLATFORMS = ("cpu", "cuda", "tpu")
EXAMPLE = "example:\n  python -m cbam_flax.export --workdir=runs/rsna --out=runs/rsna_bundle"


def inference_function(
    model: "CBAMResNet", variables: dict[str, Any], calibration: dict[str, Any]
) -> Callable[["jax.Array"], dict[str, "jax.Array"]]:
    """What every artefact computes, with the parameters as constants.

    The function takes images, float32 (B, S, S, 1) in [0, 1], and returns `probability` (B,) =
    sigmoid(scale * logit + bias) and `attention` (B, h, w), the last block's spatial gate in
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


def write_artefacts(folder: pathlib.Path, infer: Callable[..., Any], image_size: int) -> None:
    """Writes `model.stablehlo`, `model.onnx` and `saved_model/`, each for any batch size."""
    write_stablehlo(folder / bundle_lib.ARTEFACTS["jax"], infer, image_size)
    write_onnx(folder / bundle_lib.ARTEFACTS["onnx"], infer, image_size)
    write_saved_model(folder / bundle_lib.ARTEFACTS["tensorflow"], infer, image_size)


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


def check_images(image_size: int, count: int = 5) -> np.ndarray:
    """The fixed images on which artefacts are compared: float32 (count, S, S, 1) in [0, 1].

    Noise of halving wavelength and amplitude, so that every layer sees structure at its scale.
    """
    import cv2

    rng = np.random.default_rng(0)
    images = np.zeros((count, image_size, image_size), np.float32)
    for octave in range(1, 7):
        for image in images:
            cells = rng.uniform(-1, 1, (2**octave, 2**octave)).astype(np.float32)
            image += cv2.resize(cells, image.shape, interpolation=cv2.INTER_CUBIC) / 2**octave
    return np.clip(0.5 + 0.6 * images, 0, 1)[..., None]


def verify(folder: pathlib.Path, images: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Runs each artefact in a fresh process and returns the largest difference in probability.

    Args:
        folder: holds the artefacts.
        images: float32 (B, S, S, 1).
        expected: float32 (B,), the training code's calibrated probabilities for them.

    Raises:
        UserError: an artefact does not run, or differs by more than `TOLERANCE`.
    """
    differences = {}
    # CPU, as for the expected values: rounding differs more between platforms than artefacts do.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = pathlib.Path(scratch) / "images.npy"
        np.save(inputs, images)
        for runtime, name in bundle_lib.ARTEFACTS.items():
            outputs = pathlib.Path(scratch) / f"{runtime}.npz"
            # -P: by its path and with nothing of this project importable.
            command = [sys.executable, "-P", runtimes.__file__, runtime]
            process = subprocess.run(
                [*command, str(folder / name), str(inputs), str(outputs)],
                env=environment,
                capture_output=True,
                text=True,
            )
            if process.returncode:
                last = (process.stderr.strip().splitlines() or ["no message"])[-1]
                raise cli.UserError(f"{name} was written but does not run: {last}")
            with np.load(outputs) as arrays:
                difference = float(np.abs(arrays["probability"] - expected).max())
            # Written so that a NaN fails too.
            if not difference <= TOLERANCE:
                raise cli.UserError(
                    f"{name} differs from the training code by {difference:.2g} in probability, "
                    f"more than {TOLERANCE:g}; nothing was exported"
                )
            differences[name] = difference
    return differences


def write_bundle(
    folder: pathlib.Path,
    model: "CBAMResNet",
    variables: dict[str, Any],
    description: dict[str, Any],
    card: str,
) -> dict[str, Any]:
    """Fills an empty folder with a whole, verified bundle and returns what bundle.json says.

    Args:
        folder: an existing empty folder.
        model: computes in float32, so that every runtime rounds alike.
        variables: `params` and `batch_stats`.
        description: bundle.json without `verification` and `files`, which are added here.
        card: the text of MODEL_CARD.md.

    Raises:
        UserError: an artefact does not give the training code's numbers.
    """
    import jax

    calibration = description["calibration"]
    image_size = description["preprocessing"]["image_size"]
    write_artefacts(folder, inference_function(model, variables, calibration), image_size)
    images = check_images(image_size)
    logits = np.asarray(model.apply(variables, images, train=False), np.float64)
    expected = 1 / (1 + np.exp(-(calibration["scale"] * logits + calibration["bias"])))
    description |= {
        "verification": {
            "tolerance": TOLERANCE,
            "images": len(images),
            "jax": jax.__version__,
            "max_difference": verify(folder, images, expected),
        }
    }
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    description |= {"files": bundle_lib.describe_files(folder)}
    text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / "bundle.json").write_text(text, encoding="utf-8")
    return description


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cbam_flax.export",
        description="Writes the best checkpoint of a run as an inference bundle and verifies it.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="folder of the run")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the bundle to write")
    parser.add_argument("--step", type=int, help="this checkpoint instead of the best")
    arguments = parser.parse_args()
    # Nothing here is heavy, and the reference must be float32 arithmetic as the CPU does it.
    os.environ["JAX_PLATFORMS"] = "cpu"

    from cbam_flax.checkpoint import load_for_inference
    from cbam_flax.model_card import model_card
    from cbam_flax.models import create_model
    from cbam_flax.run_record import describe, read_run

    with bundle_lib.whole_folder(arguments.out, "bundle.json") as draft:
        restored = load_for_inference(arguments.workdir, arguments.step)
        run = read_run(arguments.workdir, restored)
        description = describe(run)
        model = create_model(restored.config.model.to_dict() | {"dtype": "float32"})
        card = model_card(run, description)
        description = write_bundle(draft, model, restored.variables, description, card)
    for name, entry in description["files"].items():
        print(f"{entry['bytes'] / 1e6:10.2f} MB  {name}")
    for name, difference in description["verification"]["max_difference"].items():
        print(f"{name} differs from the training code by at most {difference:.1e}")
    print(f"bundle of step {restored.step}: {arguments.out}")


if __name__ == "__main__":
    cli.run(main)
