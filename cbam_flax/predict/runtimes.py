"""The bundle's artefacts as plain functions, each importing only its own runtime.

`python -P cbam_flax/predict/runtimes.py RUNTIME ARTEFACT INPUTS.npy OUTPUTS.npz` runs one of them
on stored inputs; export starts it as a fresh process to check that an artefact works without the
training code.
"""

import pathlib
import sys
from collections.abc import Callable

import numpy as np

# float32 (B, S, S, 1) in [0, 1] -> {"probability": (B,), "attention": (B, h, w)}, both float32
Function = Callable[[np.ndarray], dict[str, np.ndarray]]


def load_jax(path: pathlib.Path) -> Function:
    """`model.stablehlo` on JAX's default device; needs jax alone, no flax."""
    import jax
    import jax.export

    call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: jax.device_get(call(images))


def load_onnx(path: pathlib.Path) -> Function:
    """`model.onnx` on the best provider that the installed onnxruntime has."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=onnxruntime.get_available_providers()
    )
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def load_tensorflow(path: pathlib.Path) -> Function:
    """`saved_model/` through its `serving_default` signature; needs TensorFlow alone, no jax."""
    import tensorflow as tf

    model = tf.saved_model.load(str(path))

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        # Through `model`, which must stay alive: a signature only refers to it weakly.
        outputs = model.signatures["serving_default"](images=tf.constant(images))
        return {name: value.numpy() for name, value in outputs.items()}

    return run


LOADERS: dict[str, Callable[[pathlib.Path], Function]] = {
    "jax": load_jax,
    "onnx": load_onnx,
    "tensorflow": load_tensorflow,
}


if __name__ == "__main__":
    runtime, artefact, inputs, outputs = sys.argv[1:]
    results = LOADERS[runtime](pathlib.Path(artefact))(np.load(inputs))
    np.savez(outputs, probability=results["probability"], attention=results["attention"])
