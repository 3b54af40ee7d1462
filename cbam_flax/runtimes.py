"""The bundle's artefacts as plain functions, each with no more than its own runtime imported.

`python -m cbam_flax.runtimes RUNTIME ARTEFACT INPUTS.npy OUTPUTS.npz` runs one of them on stored
inputs; export starts it as a fresh process to see that an artefact works without the training code.
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
    call = model.signatures["serving_default"]
    # The default argument keeps `model` alive: its signatures hold only weak references.
    return lambda images, _model=model: {
        name: value.numpy() for name, value in call(images=tf.constant(images)).items()
    }


LOADERS: dict[str, Callable[[pathlib.Path], Function]] = {
    "jax": load_jax,
    "onnx": load_onnx,
    "tensorflow": load_tensorflow,
}


if __name__ == "__main__":
    runtime, artefact, inputs, outputs = sys.argv[1:]
    np.savez(outputs, **LOADERS[runtime](pathlib.Path(artefact))(np.load(inputs)))
