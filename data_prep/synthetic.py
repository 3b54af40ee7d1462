"""Writes phantom chest films in the layout of the RSNA Pneumonia Detection Challenge (2018).

`stage_2_train_images/<id>.dcm` with the headers of the challenge, the two CSV files with a row per
box, and the mapping that says which films are of one patient. No file holds data of a person, and
each says "SYNTHETIC" in its header.
"""

import argparse
import csv
import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import pathlib
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np
import pydicom
from pydicom import uid
from pydicom.encaps import encapsulate

from data_prep import phantom
from data_prep.cli import UserError, progress, run

MAPPING_FILE = "pneumonia-challenge-dataset-mappings_2018.json"
_MARK = "SYNTHETIC.json"  # says what made the folder, so that a finished one is not made again
_VERSION = 1  # of the drawing; raise it when the same seed gives other files
_JPEG_QUALITY = 85

# P(opacity | view). The challenge has 0.383 and 0.093; nearer here, so that the view alone stays
# a weak shortcut (AUROC about 0.6), and higher, so that a small set has positives enough.
_OPACITY_RATE = {"AP": 0.46, "PA": 0.27}
_SPACINGS = {"AP": (0.139, 0.168, 0.171), "PA": (0.143, 0.139, 0.171)}  # mm
_CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
_NIH_NAMES = {
    "large heart": "Cardiomegaly",
    "nodule": "Nodule",
    "effusion": "Effusion",
    "atelectasis": "Atelectasis",
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything about one film but its pixels."""

    index: int
    patient: int
    follow_up: int  # which of the patient's films, from 0
    image_id: str
    female: bool
    age: int
    view: str
    spacing: float
    opacities: int
    findings: tuple[str, ...]

    @property
    def detailed_class(self) -> str:
        return _CLASSES[2 if self.opacities else bool(self.findings)]


def plans(seed: int) -> Iterator[Plan]:
    """All films of a seed, without end, patient after patient: a longer set extends a shorter."""
    index = itertools.count()
    for patient in itertools.count():
        rng = np.random.default_rng([seed, 0, patient])
        female = bool(rng.random() < 0.43)
        age = int(np.clip(rng.normal(47, 16), 2, 92))
        if rng.random() < 0.004:
            age = int(rng.choice((148, 150, 151, 153, 155)))  # the challenge has such ages
        sickness = rng.uniform(0.3, 1.7)  # films of one patient are alike in their label too
        bedridden = rng.beta(1, 1)
        for follow_up in range(int(rng.geometric(0.4))):
            view = "AP" if rng.random() < bedridden else "PA"
            opacities = 0
            if rng.random() < _OPACITY_RATE[view] * sickness:
                opacities = int(rng.choice((1, 2, 3), p=(0.45, 0.45, 0.10)))
            yield Plan(
                index=next(index),
                patient=patient,
                follow_up=follow_up,
                image_id=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
                female=female,
                age=age,
                view=view,
                spacing=float(rng.choice(_SPACINGS[view])),
                opacities=opacities,
                findings=_findings(rng, view, opacities),
            )


def _findings(rng: np.random.Generator, view: str, opacities: int) -> tuple[str, ...]:
    """Other findings: in about half of the films, with and without an opacity alike."""
    if rng.random() < 0.45:
        return ()
    odds = np.array([0.35, 0.25, 0.45 if view == "AP" else 0.2, 0.2, 0.25])
    chosen = rng.random(len(phantom.FINDINGS)) < odds
    return tuple(name for name, there in zip(phantom.FINDINGS, chosen, strict=True) if there)


def write(out: pathlib.Path, images: int, seed: int = 0, workers: int = 1) -> None:
    """Writes `images` films and their tables into the folder `out`, whole or not at all.

    The files depend on `seed` alone, and the first n of them are the same for every `images` >= n.
    A folder that the same call has written before is left as it is.

    Raises:
      UserError: `out` holds something else, or a number makes no sense.
    """
    if images < 1 or seed < 0 or workers < 1:
        raise UserError("--images and --workers must be at least 1, and --seed at least 0")
    made_by = {
        "made_by": "data_prep.synthetic",
        "version": _VERSION,
        "images": images,
        "seed": seed,
    }
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if (out / _MARK).is_file() and json.loads((out / _MARK).read_text()) == made_by:
            print(f"{out} is already there, made by the same call")
            return
        raise UserError(f"{out} is not empty: give --out a new folder, or delete that one first")
    out.parent.mkdir(parents=True, exist_ok=True)

    chosen = list(itertools.islice(plans(seed), images))
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = pathlib.Path(scratch) / "whole"
        (folder / "stage_2_train_images").mkdir(parents=True)
        draw = functools.partial(_write_film, folder / "stage_2_train_images", seed)
        shown = functools.partial(progress, what="drawing radiographs", total=images)
        if workers == 1:
            boxes = list(shown(map(draw, chosen)))
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(workers, images), mp_context=context) as pool:
                boxes = list(shown(pool.map(draw, chosen, chunksize=4)))
        _write_tables(folder, chosen, boxes)
        _write_mapping(folder / MAPPING_FILE, chosen, seed)
        (folder / _MARK).write_text(json.dumps(made_by, indent=1) + "\n")
        folder.rename(out)
    patients, positive = len({plan.patient for plan in chosen}), sum(map(bool, boxes))
    print(
        f"{out}: {images} synthetic radiographs of {patients} patients, {positive} with opacities"
    )


def _uid(*parts: object) -> str:
    return uid.generate_uid(entropy_srcs=["cbam_flax synthetic", *map(str, parts)])


def _uids(plan: Plan, seed: int) -> dict[str, str]:
    return {
        "StudyInstanceUID": _uid(seed, "study", plan.index),
        "SeriesInstanceUID": _uid(seed, "series", plan.index),
        "SOPInstanceUID": _uid(seed, "image", plan.index),
    }


def _write_film(folder: pathlib.Path, seed: int, plan: Plan) -> list[phantom.Box]:
    """Draws and writes one DICOM file; returns its boxes."""
    cv2.setNumThreads(1)  # one film a worker: threads inside would only fight
    body = phantom.Body.draw(np.random.default_rng([seed, 1, plan.patient]), plan.female)
    film = phantom.render(
        body,
        np.random.default_rng([seed, 2, plan.index]),
        view=plan.view,
        opacities=plan.opacities,
        findings=plan.findings,
    )
    encoded = cv2.imencode(".jpg", film.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    dataset = _header(plan, _uids(plan, seed))
    _attach(dataset, encoded.tobytes())
    dataset.save_as(folder / f"{plan.image_id}.dcm", enforce_file_format=True)
    return film.boxes


def _header(plan: Plan, uids: dict[str, str]) -> pydicom.Dataset:
    """The header of the challenge's files, tag for tag, marked as synthetic in three places."""
    dataset = pydicom.Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = uids["SOPInstanceUID"]
    dataset.StudyDate = "19010101"
    dataset.StudyTime = "000000.00"
    dataset.AccessionNumber = ""
    dataset.Modality = "CR"
    dataset.ConversionType = "WSD"
    dataset.Manufacturer = "SYNTHETIC"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesDescription = f"view: {plan.view}"
    dataset.PatientName = "SYNTHETIC"
    dataset.PatientID = plan.image_id  # as in the challenge, this names the image
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "F" if plan.female else "M"
    # Ages are bare numbers in the challenge, against the standard ('051Y').
    dataset.add(pydicom.DataElement("PatientAge", "AS", str(plan.age), validation_mode=0))
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = plan.view
    dataset.StudyInstanceUID = uids["StudyInstanceUID"]
    dataset.SeriesInstanceUID = uids["SeriesInstanceUID"]
    dataset.StudyID = ""
    dataset.SeriesNumber = "1"
    dataset.InstanceNumber = "1"
    dataset.PatientOrientation = ""
    dataset.ImageComments = "SYNTHETIC drawing of a chest film; no patient, no diagnostic meaning"
    dataset.PixelSpacing = [plan.spacing, plan.spacing]
    return dataset


def _attach(dataset: pydicom.Dataset, jpeg: bytes) -> None:
    """Puts a JPEG Baseline image in, with what the header must say about it."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = phantom.FILM
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    dataset.PixelData = encapsulate([jpeg])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit


def _write_tables(folder: pathlib.Path, chosen: list[Plan], boxes: list[list[phantom.Box]]) -> None:
    """The two CSV files: a row per box, or one row for a film that has none."""
    labels: list[tuple] = [("patientId", "x", "y", "width", "height", "Target")]
    classes = [("patientId", "class")]
    for plan, film_boxes in zip(chosen, boxes, strict=True):
        rows: list[tuple] = [(*map(float, box), 1) for box in film_boxes] or [("", "", "", "", 0)]
        labels += [(plan.image_id, *row) for row in rows]
        classes += [(plan.image_id, plan.detailed_class)] * len(rows)
    for name, table in (("train_labels", labels), ("detailed_class_info", classes)):
        with (folder / f"stage_2_{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table)


def _write_mapping(path: pathlib.Path, chosen: list[Plan], seed: int) -> None:
    """The official schema; the first eight digits of `img_id` are the patient."""
    entries = []
    for plan in chosen:
        names = [_NIH_NAMES[finding] for finding in plan.findings if finding in _NIH_NAMES]
        names += ["Consolidation"] if plan.opacities else []
        entries.append(
            {
                "subset_img_id": plan.image_id,
                "img_id": f"{plan.patient + 1:08d}_{plan.follow_up:03d}.png",
                "subset_group": "stage_2_train",
                "orig_labels": names or ["No Finding"],
                **_uids(plan, seed),
            }
        )
    path.write_text(json.dumps(entries, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.synthetic",
        description="Writes synthetic chest films as DICOM, laid out like the RSNA challenge.",
        epilog="example:\n  python -m data_prep.synthetic --out=data/synthetic --images=600",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a new folder")
    parser.add_argument("--images", type=int, default=600, help="how many films (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other patients")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    args = parser.parse_args()
    write(args.out, args.images, args.seed, args.workers)


if __name__ == "__main__":
    run(main)
