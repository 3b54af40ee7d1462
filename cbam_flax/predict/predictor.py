"""A loaded bundle as a function: radiographs or arrays in, calibrated probabilities out."""

import os
import pathlib
from typing import Any

import numpy as np

from cbam_flax.predict import reader, runtimes, signature
from cbam_flax.predict.bundle import artefact_path, read_bundle
from cbam_flax.predict.choice import RUNTIMES, choose
from cbam_flax.predict.scores import findings
from data_prep import cli


class Predictor:
    """A loaded bundle.

    Attributes:
        bundle: what bundle.json says.
        runtime: which of `RUNTIMES` computes.
    """

    def __init__(
        self, bundle: dict[str, Any], function: runtimes.Function, batch_size: int, runtime: str
    ) -> None:
        self.bundle = bundle
        self.batch_size = batch_size
        self.runtime = runtime
        self._function = function

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str],
        runtime: str = "auto",
        batch_size: int = 8,
        verify_with: str | os.PathLike[str] | None = None,
        images: int | None = None,
    ) -> "Predictor":
        """Loads a bundle for one runtime.

        Args:
            runtime: "jax", "onnx", or "auto": what is installed and fastest (`choice.choose`).
                Their probabilities differ by rounding, about 1e-7.
            batch_size: the most images that go through the model at once.
            verify_with: file of an Ed25519 public key; the bundle must be signed with its private
                half.
            images: how many are to be scored, for "auto"; by default many.

        Raises:
            UserError: no bundle, one of another schema version or a damaged one, one without the
                signature, or the runtime is unknown, not installed or cannot load it.
        """
        if runtime not in ("auto", *RUNTIMES):
            raise cli.UserError(f"the runtime {runtime!r} is none of auto, {', '.join(RUNTIMES)}")
        folder = pathlib.Path(bundle)
        key = signature.public_key(pathlib.Path(verify_with)) if verify_with else None
        description = read_bundle(folder, key)
        if runtime == "auto":
            runtime = choose(description, images)
        path = artefact_path(folder, description, runtime)
        try:
            function = runtimes.LOADERS[runtime](path)
        except ModuleNotFoundError as error:
            raise cli.UserError(
                f"--runtime={runtime} needs the package {error.name}; install it, "
                f"or choose the other of jax and onnx"
            ) from error
        except runtimes.Fault as error:
            raise cli.UserError(
                f"--runtime={runtime} cannot load {path} ({error}); update its package, "
                f"or choose the other of jax and onnx"
            ) from error
        return cls(description, function, batch_size, runtime)

    def predict(self, inputs: Any) -> np.ndarray:
        """Calibrated probabilities of the positive label, or of each of several findings.

        Args:
            inputs: a path, an H x W array (uint8 or uint16, black background, the full range of its
                type), or a list of either.

        Returns:
            float32 (N,), in the order of the inputs; N = 1 for a single one. Of several findings
            (N, k), in the order of `bundle["findings"]`.

        Raises:
            DicomRefusal: a file is no usable radiograph. (The command lists it and continues.)
            ValueError: an array of another shape or type.
        """
        single = isinstance(inputs, str | os.PathLike | np.ndarray)
        items = [inputs] if single else list(inputs)
        squares = reader.map_ahead(
            self._square, items, workers=cli.cores(), ahead=2 * self.batch_size
        )
        size = min(self.batch_size, _power_of_two(len(items)))
        chunks = [
            self.run(np.stack(chunk), size)["probability"]
            for chunk in reader.batches(squares, size)
        ]
        several = [len(names)] if (names := findings(self.bundle)) else []
        return np.concatenate(chunks) if chunks else np.zeros((0, *several), np.float32)

    def run(self, squares: np.ndarray, size: int | None = None) -> dict[str, np.ndarray]:
        """uint8 (N, S, S) -> `probability` and `attention`, float32 (N,) or (N, k), and (N, h, w).

        Of an ensemble also `spread`, of the probability's shape.

        Args:
            size: the batch is padded to it with black, so that one compiled size serves all.

        Raises:
            UserError: the runtime cannot run the model on this machine.
        """
        count = len(squares)
        images = np.zeros((size or count, *squares.shape[1:], 1), np.float32)
        images[:count, ..., 0] = squares / np.float32(255)
        try:
            outputs = self._function(images)
        except runtimes.Fault as error:
            raise cli.UserError(
                f"the model cannot run on this machine ({error}); make --batch_size smaller, "
                f"update the runtime's package, or choose the other --runtime"
            ) from error
        return {name: value[:count] for name, value in outputs.items()}

    def _square(self, item: Any) -> np.ndarray:
        settings = self.bundle["preprocessing"]
        image = item if isinstance(item, np.ndarray) else reader.decode(item, settings).image
        if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"an image must be H x W uint8 or uint16, not {image.shape} {image.dtype}; "
                f"give several as a list"
            )
        return reader.fit(image, settings).square


def _power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`, so that few sizes are compiled."""
    return 1 << max(count - 1, 0).bit_length()
