"""The bundle's artefacts as plain functions, each importing only its own runtime.

`python -P cbam_flax/predict/runtimes.py RUNTIME ARTEFACT INPUTS.npy OUTPUTS.npz` runs one of them
on stored inputs; export starts it as a fresh process to check that an artefact works without the
training code. RUNTIME `jax:cuda` runs what `model.stablehlo` holds for a GPU, on the CPU.
"""

import contextlib
import dataclasses
import functools
import pathlib
import struct
import sys
from collections.abc import Callable, Iterator

import numpy as np

# float32 (B, S, S, 1) in [0, 1] -> {"probability": (B,), "attention": (B, h, w)}, both float32;
# the probabilities of k findings are (B, k). An ensemble also gives "spread", shaped alike.
Function = Callable[[np.ndarray], dict[str, np.ndarray]]


class Fault(Exception):
    """A runtime cannot load or run an artefact; the message is the first line of the cause."""


@contextlib.contextmanager
def _faults(*kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        lines = str(error).strip().splitlines()
        raise Fault(lines[0] if lines else type(error).__name__) from error


def load_jax(path: pathlib.Path, branch: str | None = None) -> Function:
    """`model.stablehlo` on JAX's default device; needs jax alone, no flax.

    Args:
        branch: runs on the CPU what the file holds for this platform, "cuda" or "tpu".
    """
    import jax
    import jax.export

    # What the reader of the format, flatbuffers, raises for content that is none of it.
    malformed = (struct.error, TypeError, LookupError, AttributeError, AssertionError)
    with _faults(*malformed, ValueError, RuntimeError):
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
        if branch:  # a platform's branch goes by its place among the platforms
            names = {"cpu": branch, branch: "cpu"}
            platforms = tuple(names.get(name, name) for name in exported.platforms)
            exported = dataclasses.replace(exported, platforms=platforms)
        call = jax.jit(exported.call)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with _faults(ValueError, RuntimeError):  # JaxRuntimeError too, such as out of memory
            return jax.device_get(call(images))

    return run


def load_onnx(path: pathlib.Path) -> Function:
    """`model.onnx` on the best provider that the installed onnxruntime has."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # Its errors have no base of their own.
    own = [kind for kind in vars(state).values() if isinstance(kind, type)]
    kinds = [kind for kind in own if issubclass(kind, Exception)] + [ValueError, RuntimeError]
    with _faults(*kinds):
        session = onnxruntime.InferenceSession(
            str(path), providers=onnxruntime.get_available_providers()
        )
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with _faults(*kinds):
            return dict(zip(names, session.run(names, {"images": images}), strict=True))

    return run


def load_tensorflow(path: pathlib.Path) -> Function:
    """`saved_model/` through its `serving_default` signature; needs TensorFlow alone, no jax."""
    import tensorflow as tf

    kinds = (tf.errors.OpError, OSError, ValueError, LookupError, RuntimeError)
    with _faults(*kinds):
        model = tf.saved_model.load(str(path))

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        # Through `model`, which must stay alive: a signature only refers to it weakly.
        with _faults(*kinds):
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
    runtime, _, branch = runtime.partition(":")
    load = functools.partial(load_jax, branch=branch) if branch else LOADERS[runtime]
    results = load(pathlib.Path(artefact))(np.load(inputs))
    with open(outputs, "wb") as file:
        np.savez(file, allow_pickle=False, **results)
