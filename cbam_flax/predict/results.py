"""What is written for one scored film: a line of predictions.csv, a picture, DICOM objects."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from cbam_flax.predict import dicom_output, overlay
from cbam_flax.predict.reader import Film

COLUMNS = (
    "image_id",
    "path",
    "probability",
    "decision",
    "flags",
    "sop_instance_uid",
    "study_instance_uid",
    "series_instance_uid",
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The result for one film.

    Attributes:
        flags: why the film is out of scope by its header; empty when nothing says so.
        probability: calibrated.
        attention: float32 (h, w) over the square that the model saw.
    """

    film: Film
    flags: list[str]
    probability: float
    attention: np.ndarray


def decide(answer: Answer, bundle: dict[str, Any]) -> bool | None:
    """Whether the probability reaches the operating point; None for a film out of scope."""
    return None if answer.flags else answer.probability >= bundle["operating_point"]["threshold"]


def decision_text(answer: Answer, bundle: dict[str, Any]) -> str:
    decision = decide(answer, bundle)
    return "out of scope" if decision is None else bundle["labels"][int(decision)]


def row(answer: Answer, bundle: dict[str, Any]) -> tuple[Any, ...]:
    """The line of predictions.csv, in the order of `COLUMNS`."""
    return (
        answer.film.source.image_id,
        answer.film.source.path,
        f"{answer.probability:.8g}",
        decision_text(answer, bundle),
        ";".join(answer.flags),
        *(answer.film.header[uid] for uid in COLUMNS[-3:]),
    )


def write_pictures(
    answer: Answer,
    bundle: dict[str, Any],
    *,
    overlays: pathlib.Path | None,
    dicom: pathlib.Path | None,
) -> bool:
    """Writes the overlay as PNG and as DICOM with its report, into the folders that are given.

    Returns:
        False when DICOM was wanted but the film has no identifiers that it could refer to.
    """
    assert answer.film.panel is not None
    threshold = bundle["operating_point"]["threshold"]
    lines = [
        answer.film.source.image_id,
        f"{bundle['labels'][1]} {answer.probability:.3f}, operating point {threshold:.3f}: "
        f"{decision_text(answer, bundle)} {' '.join(answer.flags)}",
    ]
    picture = overlay.draw(answer.film.panel, answer.attention, answer.film.box, lines)
    if overlays:
        (overlays / f"{answer.film.source.image_id}.png").write_bytes(overlay.encode_png(picture))
    if not dicom:
        return True
    if not dicom_output.has_references(answer.film.header):
        return False
    source = dicom_output.source_dataset(answer.film.header)
    objects = {
        "sc": dicom_output.secondary_capture(source, picture, bundle),
        "sr": dicom_output.structured_report(
            source, answer.probability, decide(answer, bundle), answer.flags, bundle
        ),
    }
    for kind, dataset in objects.items():
        dataset.save_as(
            dicom / f"{answer.film.source.image_id}-{kind}.dcm", enforce_file_format=True
        )
    return True
