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
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cbam_flax import answers, dicom_output, reading, runtimes
from cbam_flax.bundle import artefact_path, read_bundle, whole_folder
from cbam_flax.scope import out_of_scope
from data_prep import cli

EXAMPLE = """example:
  python -m cbam_flax.predict --bundle=runs/rsna_bundle --out=answers film.dcm folder_of_films/

exit status:
  0  at least one file was scored; the refused ones are in rejected.csv
  1  every file was refused; rejected.csv says why
  2  wrong use, such as a path that does not exist; nothing was written"""
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
        return reading.fit(image, settings)[0]


@dataclasses.dataclass(frozen=True)
class Summary:
    """How many files were scored and refused, and how many had no identifiers for DICOM output."""

    scored: int
    refused: int
    without_dicom: int


def predict_files(
    predictor: Predictor,
    sources: Sequence[reading.Source],
    out: pathlib.Path,
    *,
    workers: int,
    overlays: bool = False,
    dicom: bool = False,
) -> Summary:
    """Scores every readable file and writes what was asked for into the folder `out`."""
    from tqdm import tqdm

    wanted = {"overlays": overlays, "dicom": dicom}
    folders = {name: out / name for name in wanted if wanted[name]}
    for folder in folders.values():
        folder.mkdir()
    size = min(predictor.batch_size, len(sources))
    decoded = reading.map_ahead(
        functools.partial(
            reading.read_film,
            preprocessing=predictor.bundle["preprocessing"],
            with_panel=bool(folders),
        ),
        sources,
        workers=workers,
        ahead=2 * size + workers,
    )
    scored = refused = without_dicom = 0
    with (
        open(out / "predictions.csv", "w", newline="", encoding="utf-8") as predictions_file,
        open(out / "rejected.csv", "w", newline="", encoding="utf-8") as rejected_file,
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(sources), desc="predicting", unit="film") as progress,
    ):
        predictions, rejected = csv.writer(predictions_file), csv.writer(rejected_file)
        predictions.writerow(answers.COLUMNS)
        rejected.writerow(REJECTED_COLUMNS)
        for batch in reading.batches(decoded, size):
            films = [item for item in batch if isinstance(item, reading.Film)]
            for item in batch:
                if isinstance(item, reading.Refused):
                    rejected.writerow((item.source.path, item.refusal.code, item.refusal.message))
            results = answer(predictor, films, size) if films else []
            predictions.writerows(answers.row(result, predictor.bundle) for result in results)
            if folders:
                write = functools.partial(
                    answers.write_pictures,
                    bundle=predictor.bundle,
                    overlays=folders.get("overlays"),
                    dicom=folders.get("dicom"),
                )
                without_dicom += list(pool.map(write, results)).count(False)
            scored += len(films)
            refused += len(batch) - len(films)
            progress.update(len(batch))
    return Summary(scored, refused, without_dicom)


def answer(predictor: Predictor, films: Sequence[reading.Film], size: int) -> list[answers.Answer]:
    """The model's results for at most `size` films."""
    outputs = predictor.run(np.stack([film.square for film in films]), size)
    return [
        answers.Answer(
            film,
            out_of_scope(film.header, predictor.bundle["scope"]),
            float(probability),
            attention,
        )
        for film, probability, attention in zip(
            films, outputs["probability"], outputs["attention"], strict=True
        )
    ]


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
    parser.add_argument("--overlays", action="store_true", help="write a PNG of each film")
    parser.add_argument(
        "--dicom_output",
        action="store_true",
        help="write a Secondary Capture and a Structured Report of each film (needs highdicom)",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="films at once (8)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="decoding threads")
    arguments = parser.parse_args()
    for name in ("batch_size", "workers"):
        if getattr(arguments, name) < 1:
            raise cli.UserError(f"--{name} is {getattr(arguments, name)}; it must be at least 1")

    if arguments.dicom_output:
        dicom_output.require_highdicom()
    sources = reading.find_files(arguments.paths, skip=arguments.out)
    with whole_folder(arguments.out, "predictions.csv") as draft:
        predictor = Predictor.load(arguments.bundle, arguments.runtime, arguments.batch_size)
        summary = predict_files(
            predictor,
            sources,
            draft,
            workers=arguments.workers,
            overlays=arguments.overlays,
            dicom=arguments.dicom_output,
        )
    if summary.without_dicom:
        print(
            f"{summary.without_dicom} films have no valid study, series or instance UID to refer "
            f"to, so there is no DICOM output for them"
        )
    print(f"{summary.scored} scored, {summary.refused} refused: {arguments.out}")
    return 0 if summary.scored else 1


if __name__ == "__main__":
    cli.run(main)
