"""What is written for one scored image: a line of predictions.csv, a picture, DICOM objects."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from cbam_flax.predict import dicom_output, overlay
from cbam_flax.predict.reader import Decoded
from data_prep import cli

COLUMNS = (
    "image_id",
    "path",
    "probability",
    "decision",
    "flags",
    "sop_instance_uid",
    "study_instance_uid",
    "series_instance_uid",
    "warnings",
)
UIDS = ("sop_instance_uid", "study_instance_uid", "series_instance_uid")


@dataclasses.dataclass(frozen=True)
class Result:
    """What the model says of one image.

    Attributes:
        flags: what in its header puts the image out of scope; empty when in scope.
        probability: calibrated.
        attention: float32 (h, w) over the square that the model saw.
    """

    image: Decoded
    flags: list[str]
    probability: float
    attention: np.ndarray


def decide(result: Result, bundle: dict[str, Any]) -> bool | None:
    """Whether the probability reaches the operating point; None when out of scope."""
    return None if result.flags else result.probability >= bundle["operating_point"]["threshold"]


def decision_text(result: Result, bundle: dict[str, Any]) -> str:
    decision = decide(result, bundle)
    return "out of scope" if decision is None else bundle["labels"][int(decision)]


def warning_words(result: Result, bundle: dict[str, Any]) -> list[str]:
    """What makes the prediction doubtful, a word each: LEAK, SHORTCUT, SMALL, SYNTHETIC, ...

    The bundle's warnings, in full in its `warnings`; whether the image itself is a drawing; and
    whether its file has no header, so that nobody knows if the image is in scope.
    """
    words = [text.partition(":")[0] for text in bundle.get("warnings", ())]
    words = [word for word in words if word.isupper()]
    if result.image.header["synthetic_data"].upper() == "YES":
        words.append("SYNTHETIC IMAGE")
    if result.image.header["format"] != "dicom":
        words.append("NO HEADER")
    return words


def row(result: Result, bundle: dict[str, Any]) -> tuple[Any, ...]:
    """The line of predictions.csv, in the order of `COLUMNS`."""
    return (
        result.image.source.image_id,
        str(result.image.source.path),
        f"{result.probability:.8g}",
        decision_text(result, bundle),
        ";".join(result.flags),
        *(result.image.header[uid] for uid in UIDS),
        ";".join(warning_words(result, bundle)),
    )


def write_pictures(
    result: Result,
    bundle: dict[str, Any],
    *,
    overlays: pathlib.Path | None,
    dicom: pathlib.Path | None,
) -> bool:
    """Writes the overlay as PNG and as DICOM with its report, into the folders that are given.

    Returns:
        False when DICOM was wanted but the header has no identifiers to refer to.
    """
    assert result.image.panel is not None
    threshold = bundle["operating_point"]["threshold"]
    lines = [
        result.image.source.image_id,
        f"{bundle['labels'][1]} {result.probability:.3f}, operating point {threshold:.3f}: "
        f"{decision_text(result, bundle)} {' '.join(result.flags)}",
        " - ".join(warning_words(result, bundle)),
    ]
    picture = overlay.draw(result.image.panel, result.attention, result.image.box, lines)
    if overlays:
        path = overlays / f"{result.image.source.image_id}.png"
        with cli.naming(path):
            path.write_bytes(overlay.encode_png(picture))
    if not dicom:
        return True
    if not dicom_output.has_references(result.image.header):
        return False
    source = dicom_output.source_dataset(result.image.header)
    objects = {
        "sc": dicom_output.secondary_capture(source, picture, bundle),
        "sr": dicom_output.structured_report(
            source, result.probability, decide(result, bundle), result.flags, bundle
        ),
    }
    for kind, dataset in objects.items():
        path = dicom / f"{result.image.source.image_id}-{kind}.dcm"
        with cli.naming(path):
            dataset.save_as(path, enforce_file_format=True)
    return True
