"""What a worker does with one radiograph: read, decode, resize, encode. Imports no TensorFlow."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from etils import epath

from data_prep.dicom import DicomRefusal
from data_prep.grey_range import FEW_LEVELS, grey_range
from data_prep.images import read_image
from data_prep.manifest import SYNTHETIC
from data_prep.records import Record
from data_prep.resize import fit_image
from data_prep.workers import Lost

cv2.setNumThreads(1)  # the workers are the parallelism


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a radiograph becomes the image of a record; inference must do the same."""

    image_size: int = 256
    aspect: str = "letterbox"
    interpolation: str = "area"
    voi: str = "first"


class Prepared(NamedTuple):
    """One input's line in the manifest, and its record unless it was refused."""

    outcome: dict[str, Any]
    example: dict[str, Any] | None


def prepare_radiograph(task: tuple[Record, Preprocessing]) -> Prepared:
    """Reads one radiograph and makes its record, with the image as PNG bytes."""
    record, how = task
    name = _file_name(record)
    try:
        radiograph = read_image(_local(record.path), voi=how.voi)
        rows, columns = radiograph.image.shape
        for ymin, xmin, ymax, xmax in record.boxes:
            if ymin < 0 or xmin < 0 or ymax > rows or xmax > columns:
                raise DicomRefusal(
                    "bad_box",
                    f"y {ymin:g} to {ymax:g}, x {xmin:g} to {xmax:g} in {rows} x {columns} pixels",
                )
    except DicomRefusal as refusal:
        return Prepared(rejected(name, refusal), None)
    square, placement = fit_image(radiograph.image, how.image_size, how.aspect, how.interpolation)
    header = radiograph.header
    example = {
        "image": cv2.imencode(".png", square)[1].tobytes(),
        "label": record.label,
        "detailed_class": record.detailed_class,
        "boxes": placement.forward_boxes(np.array(record.boxes)),
        "image_id": record.image_id,
        "patient_id": record.patient_id,
        "view": first_known(record.view, header["view_position"]),
        "sex": first_known(record.sex, header["patient_sex"]),
        "age": first_known(record.age, header["patient_age"], math.nan),
        "spacing": first_known(record.spacing, header["pixel_spacing"], math.nan),
    }
    flags = []
    if header["synthetic_data"].upper() == "YES":
        flags.append(SYNTHETIC)
    if header["presentation_intent"].upper() == "FOR PROCESSING":
        flags.append("for_processing")
    if grey_range(square)["levels"] < FEW_LEVELS:
        flags.append("few_greys")
    outcome = accepted(name, record.image_id, record.split, flags)
    if record.source is not None:
        outcome |= {"source": record.source, "format": header["format"]}
        outcome |= {"rows": rows, "columns": columns}
    return Prepared(outcome, example)


def first_known(*values: Any) -> Any:
    """The first that is not None, or None."""
    return next((value for value in values if value is not None), None)


def _file_name(record: Record) -> str:
    return record.file or epath.Path(record.path).name


def lost_radiograph(task: tuple[Record, Preprocessing], lost: Lost) -> Prepared:
    """The refusal of a file whose worker was lost."""
    reason = {
        "timeout": "decoding it took longer than the limit per file",
        "crashed": "the process that decoded it crashed",
    }[lost.code]
    return Prepared(rejected(_file_name(task[0]), DicomRefusal(lost.code, reason)), None)


def accepted(file: str, image_id: str, split: str, flags: Sequence[str] = ()) -> dict[str, Any]:
    """The manifest's line for a record.

    Args:
      flags: what is odd about the image: `synthetic` (a drawing), `for_processing` (raw detector
        data), `few_greys`.
    """
    line = {"file": file, "image_id": image_id, "status": "accepted", "split": split}
    return line | ({"flags": list(flags)} if flags else {})


def rejected(file: str, refusal: DicomRefusal) -> dict[str, str]:
    """The manifest's line for a refused file."""
    return {
        "file": file,
        "status": "rejected",
        "code": refusal.code,
        "message": refusal.message,
    }


def _local(path: str) -> str | bytes:
    """The path, or the content where the file is not on a file system (gs://)."""
    if "://" not in path:
        return path
    try:
        return epath.Path(path).read_bytes()
    except OSError as error:
        raise DicomRefusal("unreadable", str(error)) from error
