"""What a worker does with one film: read, decode, resize, encode. Imports no TensorFlow."""

import dataclasses
import math
from typing import Any

import cv2

from data_prep.dicom import read_radiograph
from data_prep.refusal import DicomRefusal
from data_prep.resize import fit_image
from data_prep.rsna import Record
from data_prep.workers import Lost

cv2.setNumThreads(1)  # the workers are the parallelism


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a film becomes the image of a record; inference must do the same."""

    image_size: int = 256
    aspect: str = "letterbox"
    interpolation: str = "area"
    voi: str = "first"


def prepare_film(task: tuple[Record, Preprocessing]) -> dict[str, Any] | DicomRefusal:
    """The features that come from the film itself, or why it is refused.

    Returns:
      `image`: PNG bytes, size x size, 8-bit grey. `boxes`: (k, 4) float32, (ymin, xmin, ymax,
      xmax) as fractions of the square. `view`, `sex`: strings. `age`, `spacing`: years and mm of
      the film, nan when missing.
    """
    record, how = task
    try:
        radiograph = read_radiograph(record.path, voi=how.voi)
        rows, columns = radiograph.image.shape
        for ymin, xmin, ymax, xmax in record.boxes:
            if ymin < 0 or xmin < 0 or ymax > rows or xmax > columns:
                raise DicomRefusal(
                    "bad_box",
                    f"y {ymin:g}-{ymax:g}, x {xmin:g}-{xmax:g} in {rows} x {columns} pixels",
                )
    except DicomRefusal as refusal:
        return refusal
    square, placement = fit_image(radiograph.image, how.image_size, how.aspect, how.interpolation)
    header = radiograph.header
    return {
        "image": cv2.imencode(".png", square)[1].tobytes(),
        "boxes": placement.forward_boxes(record.boxes),
        "view": header["view_position"],
        "sex": header["patient_sex"],
        "age": math.nan if header["patient_age"] is None else header["patient_age"],
        "spacing": math.nan if header["pixel_spacing"] is None else header["pixel_spacing"],
    }


def refusal_of(result: dict[str, Any] | DicomRefusal | Lost) -> DicomRefusal | None:
    """The refusal in the answer of a worker, if it is one."""
    if isinstance(result, Lost):
        return DicomRefusal(result.code, f"the worker that decoded it: {result.code}")
    return result if isinstance(result, DicomRefusal) else None
