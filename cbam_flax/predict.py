"""Bundle x DICOM files -> predictions. Needs the bundle and the decoder, no training code.

Predictor.load("bundle").predict(["film.dcm"]) is the whole Python interface.
"""

import argparse
import csv
import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cbam_flax import reading, runtimes
from cbam_flax.bundle import artefact_path, read_bundle, whole_folder
from cbam_flax.scope import out_of_scope
from data_prep import cli
from data_prep.dicom import DicomRefusal, read_radiograph
from data_prep.resize import fit_image

EXAMPLE = """example:
  python -m cbam_flax.predict --bundle=runs/rsna_bundle --out=answers film.dcm folder_of_films/

exit status:
  0  at least one file was scored; the refused ones are in rejected.csv
  1  every file was refused; rejected.csv says why
  2  wrong use, such as a path that does not exist; nothing was written"""
COLUMNS = ("image_id", "path", "probability", "decision", "flags")
UIDS = ("sop_instance_uid", "study_instance_uid", "series_instance_uid")
REJECTED_COLUMNS = ("file", "code", "message")


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
                not installed.
        """
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
                type), or a sequence of either.

        Returns:
            float32 (N,), in the order of the inputs; N = 1 for a single one.

        Raises:
            DicomRefusal: a file is no usable radiograph; the command refuses it and goes on.
        """
        single = isinstance(inputs, str | os.PathLike) or getattr(inputs, "ndim", None) == 2
        items = [inputs] if single else list(inputs)
        squares = reading.map_ahead(
            self._square, items, workers=os.cpu_count() or 1, ahead=2 * self.batch_size
        )
        size = min(self.batch_size, _power_of_two(len(items)))
        chunks = [
            self.run(np.stack(chunk), size)["probability"]
            for chunk in reading.batches(squares, size)
        ]
        return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)

    def read(self, path: str | os.PathLike[str]) -> tuple[np.ndarray, dict[str, Any]]:
        """One DICOM file as H x W uint8 or uint16, and its header. Raises `DicomRefusal`."""
        radiograph = read_radiograph(path, voi=self.bundle["preprocessing"]["voi"])
        return radiograph.image, radiograph.header

    def fit(self, image: np.ndarray) -> np.ndarray:
        """H x W uint8 or uint16 -> uint8 (S, S), exactly as the training data were made."""
        settings = self.bundle["preprocessing"]
        return fit_image(
            image, settings["image_size"], settings["aspect"], settings["interpolation"]
        )[0]

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
        return self.fit(item if isinstance(item, np.ndarray) else self.read(item)[0])


@dataclasses.dataclass(frozen=True)
class Film:
    """A decoded file on its way to the model."""

    source: reading.Source
    square: np.ndarray
    header: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Refused:
    """A file that is not used, and why."""

    source: reading.Source
    refusal: DicomRefusal


def decode(predictor: Predictor, source: reading.Source) -> Film | Refused:
    """Reads one file; a refusal is returned, so that it stops nothing."""
    try:
        image, header = predictor.read(source.path)
    except DicomRefusal as refusal:
        return Refused(source, refusal)
    return Film(source, predictor.fit(image), header)


def predict_files(
    predictor: Predictor, sources: Sequence[reading.Source], out: pathlib.Path, *, workers: int
) -> tuple[int, int]:
    """Scores every readable file; writes predictions.csv and rejected.csv into `out`.

    Returns:
        How many files were scored and how many refused.
    """
    from tqdm import tqdm

    size = min(predictor.batch_size, len(sources))
    decoded = reading.map_ahead(
        functools.partial(decode, predictor), sources, workers=workers, ahead=2 * size + workers
    )
    scored = refused = 0
    with (
        open(out / "predictions.csv", "w", newline="", encoding="utf-8") as predictions_file,
        open(out / "rejected.csv", "w", newline="", encoding="utf-8") as rejected_file,
        tqdm(total=len(sources), desc="predicting", unit="film") as progress,
    ):
        predictions, rejected = csv.writer(predictions_file), csv.writer(rejected_file)
        predictions.writerow((*COLUMNS, *UIDS))
        rejected.writerow(REJECTED_COLUMNS)
        for batch in reading.batches(decoded, size):
            films = [item for item in batch if isinstance(item, Film)]
            for item in batch:
                if isinstance(item, Refused):
                    rejected.writerow((item.source.path, item.refusal.code, item.refusal.message))
            if films:
                outputs = predictor.run(np.stack([film.square for film in films]), size)
                for film, probability in zip(films, outputs["probability"], strict=True):
                    predictions.writerow(row(predictor.bundle, film, float(probability)))
            scored += len(films)
            refused += len(batch) - len(films)
            progress.update(len(batch))
    return scored, refused


def row(bundle: dict[str, Any], film: Film, probability: float) -> tuple[Any, ...]:
    """The line of one film in predictions.csv."""
    flags = out_of_scope(film.header, bundle["scope"])
    return (
        film.source.image_id,
        film.source.path,
        f"{probability:.8g}",
        decide(bundle, probability, flags),
        ";".join(flags),
        *(film.header[uid] for uid in UIDS),
    )


def decide(bundle: dict[str, Any], probability: float, flags: Sequence[str]) -> str:
    """The label at the operating point, or "out of scope" where the header speaks against it."""
    if flags:
        return "out of scope"
    return bundle["labels"][int(probability >= bundle["operating_point"]["threshold"])]


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
    parser.add_argument("--runtime", choices=("jax", "onnx"), default="jax")
    parser.add_argument("--batch_size", type=int, default=8, help="films at once (8)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="decoding threads")
    arguments = parser.parse_args()
    for name in ("batch_size", "workers"):
        if getattr(arguments, name) < 1:
            raise cli.UserError(f"--{name} is {getattr(arguments, name)}; it must be at least 1")

    sources = reading.find_files(arguments.paths, skip=arguments.out)
    with whole_folder(arguments.out, "predictions.csv") as draft:
        predictor = Predictor.load(arguments.bundle, arguments.runtime, arguments.batch_size)
        scored, refused = predict_files(predictor, sources, draft, workers=arguments.workers)
    print(f"{scored} scored, {refused} refused: {arguments.out / 'predictions.csv'}")
    return 0 if scored else 1


if __name__ == "__main__":
    cli.run(main)
