"""Bundle x DICOM files -> predictions. Needs the bundle and the decoder, no training code.

Predictor.load("bundle").predict(["film.dcm"]) is the whole Python interface.
"""

import argparse
import os
import pathlib
from typing import Any

import numpy as np

from cbam_flax import dicom_output, reading, runtimes, scoring
from cbam_flax.bundle import artefact_path, read_bundle, whole_folder
from data_prep import cli

EXAMPLE = """example:
  python -m cbam_flax.predict --bundle=runs/rsna_bundle --out=answers film.dcm folder_of_films/

exit status:
  0  at least one file was scored; the refused ones are in rejected.csv
  1  every file was refused; rejected.csv says why
  2  wrong use, such as a path that does not exist; nothing was written"""
RUNTIMES = ("jax", "onnx")


class Predictor:
    """A loaded bundle.

    Attributes:
        bundle: what bundle.json says.
    """

    def __init__(
        self, bundle: dict[str, Any], function: runtimes.Function, batch_size: int
    ) -> None:
        self.bundle = bundle
        self.batch_size = batch_size
        self._function = function

    @classmethod
    def load(
        cls, bundle: str | os.PathLike[str], runtime: str = "jax", batch_size: int = 8
    ) -> "Predictor":
        """Loads a bundle for one runtime, "jax" or "onnx".

        Args:
            batch_size: the most images that go through the model at once.

        Raises:
            UserError: no bundle, one of another schema version or a damaged one, or the runtime is
                unknown or not installed.
        """
        if runtime not in RUNTIMES:
            raise cli.UserError(f"the runtime {runtime!r} is none of {', '.join(RUNTIMES)}")
        folder = pathlib.Path(bundle)
        description = read_bundle(folder)
        path = artefact_path(folder, description, runtime)
        try:
            function = runtimes.LOADERS[runtime](path)
        except ModuleNotFoundError as error:
            raise cli.UserError(
                f"--runtime={runtime} needs the package {error.name}; install it, "
                f"or choose the other of jax and onnx"
            ) from error
        return cls(description, function, batch_size)

    def predict(self, inputs: Any) -> np.ndarray:
        """Calibrated probabilities of the positive label.

        Args:
            inputs: a path, an H x W array (uint8 or uint16, black background, the full range of its
                type), or a list of either.

        Returns:
            float32 (N,), in the order of the inputs; N = 1 for a single one.

        Raises:
            DicomRefusal: a file is no usable radiograph; the command refuses it and goes on.
            ValueError: an array of another shape or type.
        """
        single = isinstance(inputs, str | os.PathLike | np.ndarray)
        items = [inputs] if single else list(inputs)
        squares = reading.map_ahead(
            self._square, items, workers=cli.cores(), ahead=2 * self.batch_size
        )
        size = min(self.batch_size, _power_of_two(len(items)))
        chunks = [
            self.run(np.stack(chunk), size)["probability"]
            for chunk in reading.batches(squares, size)
        ]
        return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)

    def run(self, squares: np.ndarray, size: int | None = None) -> dict[str, np.ndarray]:
        """uint8 (N, S, S) -> `probability` float32 (N,) and `attention` float32 (N, h, w).

        Args:
            size: the batch is filled up to it with black, so that one compiled size serves all.
        """
        count = len(squares)
        images = np.zeros((size or count, *squares.shape[1:], 1), np.float32)
        images[:count, ..., 0] = squares / np.float32(255)
        return {name: value[:count] for name, value in self._function(images).items()}

    def _square(self, item: Any) -> np.ndarray:
        settings = self.bundle["preprocessing"]
        image = item if isinstance(item, np.ndarray) else reading.decode(item, settings).image
        if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"an image must be H x W uint8 or uint16, not {image.shape} {image.dtype}; "
                f"give several as a list"
            )
        return reading.fit(image, settings)[0]


def _power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`, so that few sizes are ever compiled."""
    return 1 << max(count - 1, 0).bit_length()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cbam_flax.predict",
        description="Scores raw DICOM radiographs with an exported bundle. Not for clinical use.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", type=pathlib.Path)
    parser.add_argument("--bundle", type=pathlib.Path, required=True, help="from cbam_flax.export")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the answers")
    parser.add_argument("--runtime", choices=RUNTIMES, default="jax")
    parser.add_argument("--overlays", action="store_true", help="write a PNG of each film")
    parser.add_argument(
        "--dicom_output",
        action="store_true",
        help="write a Secondary Capture and a Structured Report of each film (needs highdicom)",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="films at once (8)")
    parser.add_argument(
        "--workers", type=int, default=cli.cores(), help="decoding processes (all cores)"
    )
    arguments = parser.parse_args()
    for name, least in (("batch_size", 1), ("workers", 0)):
        if (value := getattr(arguments, name)) < least:
            raise cli.UserError(f"--{name} is {value}; it must be at least {least}")

    if arguments.dicom_output:
        dicom_output.require_highdicom()
    sources = reading.find_files(arguments.paths, skip=arguments.out)
    with whole_folder(arguments.out, "predictions.csv") as draft:
        predictor = Predictor.load(arguments.bundle, arguments.runtime, arguments.batch_size)
        summary = scoring.score_files(
            predictor,
            sources,
            draft,
            workers=arguments.workers,
            overlays=arguments.overlays,
            dicom=arguments.dicom_output,
        )
    if summary.without_dicom:
        print(
            f"no DICOM output for {summary.without_dicom} of the scored images: they have no valid "
            f"study, series and instance UID to refer to"
        )
    print(
        f"images: {summary.scored} scored, {summary.refused} refused; "
        f"see predictions.csv and rejected.csv in {arguments.out}"
    )
    return 0 if summary.scored else 1


if __name__ == "__main__":
    cli.run(main)
