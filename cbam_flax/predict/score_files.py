"""Many files through a bundle: decoding, scoring and writing overlap."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cbam_flax.predict import reader, results, saliency
from cbam_flax.predict.predictor import Predictor
from cbam_flax.predict.scope import out_of_scope
from data_prep import cli
from data_prep.files import csv_files, folders, unmarked_folder
from data_prep.grey_range import never_seen

REJECTED_COLUMNS = ("file", "code", "message")


@dataclasses.dataclass(frozen=True)
class Summary:
    """How many files were scored and refused.

    Of the scored ones, how many have no identifiers for DICOM output, and how many no header.
    """

    scored: int
    refused: int
    without_dicom: int
    without_header: int


def score_files(
    predictor: Predictor,
    sources: Sequence[reader.Source],
    out: pathlib.Path,
    *,
    workers: int,
    overlays: bool = False,
    dicom: bool = False,
    method: str = "gate",
) -> Summary:
    """Scores every readable file and writes what was asked for into the folder `out`.

    `method` is of the maps in the pictures (`saliency.choose`).
    While the model runs on a batch, the next one is decoded in other processes and the results
    of the previous one are written.
    """
    wanted = {"overlays": overlays, "dicom": dicom}
    folders = {name: out / name for name in wanted if wanted[name]}
    for folder in folders.values():
        folder.mkdir()
    size = min(predictor.batch_size, len(sources))
    preprocessing = predictor.bundle["preprocessing"]
    tasks = [reader.Task(source, preprocessing, bool(folders)) for source in sources]
    batches = reader.batches(reader.read_files(tasks, workers), size)
    score = functools.partial(score_batch, predictor, size, method=method if folders else None)
    write = functools.partial(
        results.write_pictures,
        bundle=predictor.bundle,
        method=method,
        overlays=folders.get("overlays"),
        dicom=folders.get("dicom"),
    )
    scored, refused = {}, {}  # lines by the file's position among the inputs
    without_dicom = without_header = 0
    with (
        ThreadPoolExecutor(max(workers, 1)) as pool,
        cli.progress(None, "predicting", len(sources)) as progress,
    ):
        for found, rejected in reader.map_ahead(score, batches, workers=1, ahead=2):
            for result in found:
                scored[result.image.source.index] = results.row(result, predictor.bundle)
                without_header += result.image.header["format"] != "dicom"
            for item in rejected:
                line = (str(item.source.path), item.refusal.code, item.refusal.message)
                refused[item.source.index] = line
            if folders:
                without_dicom += list(pool.map(write, found)).count(False)
            progress.update(len(found) + len(rejected))
    for name, columns, lines in (
        ("predictions.csv", results.columns(predictor.bundle), scored),
        ("rejected.csv", REJECTED_COLUMNS, refused),
    ):
        csv_files.write(out / name, columns, (lines[index] for index in sorted(lines)))
    return Summary(len(scored), len(refused), without_dicom, without_header)


def output_names(sources: Sequence[reader.Source], *, overlays: bool, dicom: bool) -> list[str]:
    """The files that `score_files` may write, relative to `out`."""
    names = ["predictions.csv", "rejected.csv"]
    for source in sources:
        names += [f"overlays/{source.image_id}.png"] * overlays
        names += [f"dicom/{source.image_id}-{kind}.dcm" for kind in ("sc", "sr")] * dicom
    return names


def earlier_results(out: pathlib.Path) -> folders.Files:
    """The results that the version before left in a folder of their own."""
    return unmarked_folder.own_files(
        out,
        ("predictions.csv", "rejected.csv", "overlays/*.png", "dicom/*.dcm"),
        {
            "predictions.csv": b"image_id,path,probability,decision,flags,sop_instance_uid,",
            "rejected.csv": b"file,code,message",
        },
    )


def score_batch(
    predictor: Predictor,
    size: int,
    batch: Sequence[reader.Decoded | reader.Refused],
    method: str | None = None,
) -> tuple[list[results.Result], list[reader.Refused]]:
    """The predictions for the images of a batch of at most `size`, and its refusals.

    Args:
        method: of the maps; None for no maps.
    """
    images = [item for item in batch if isinstance(item, reader.Decoded)]
    refused = [item for item in batch if isinstance(item, reader.Refused)]
    if not images:
        return [], refused
    squares = np.stack([image.square for image in images])
    bundle, run = predictor.bundle, functools.partial(predictor.run, size=size)
    outputs = run(squares)
    maps = saliency.maps(bundle, method, run, squares, outputs) if method else None

    def flags(image: reader.Decoded) -> list[str]:
        grey = never_seen(image.greys, bundle.get("grey_range"))
        return out_of_scope(image.header, bundle["scope"]) + grey

    spreads = outputs.get("spread")
    return [
        results.Result(
            image,
            flags(image),
            outputs["probability"][i],
            None if spreads is None else spreads[i],
            None if maps is None else maps[i],
        )
        for i, image in enumerate(images)
    ], refused
