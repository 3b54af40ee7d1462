"""Who is on the images, where that is known: what a bootstrap may resample, and what leaks."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cbam_flax.lineage import source_images

Columns = Mapping[str, np.ndarray]


def with_known_patients(columns: Columns, split_scheme: str) -> dict[str, np.ndarray]:
    """The columns, with every image of an unknown patient counted as its own patient.

    Adds `source_image`, the image that a record is of (under the `row` scheme the `image_id` of a
    record is that and a number, "id#0"), and `patient_known` (bool).

    Args:
        columns: `image_id`, and `patient_id` with "" where it is not known.
        split_scheme: what the manifest says.
    """
    image, patient = source_images(columns["image_id"], split_scheme), columns["patient_id"]
    known = patient != ""
    return {
        **columns,
        "patient_id": np.where(known, patient, image),
        "patient_known": known,
        "source_image": image,
    }


def resampling_unit(columns: Columns) -> str:
    """What a resample of `patient_id` draws, in words."""
    known = columns["patient_known"]
    if known.all():
        return "patients"
    return "patients, or images where the patient is unknown" if known.any() else "images"


def count(columns: Columns) -> dict[str, int | None]:
    """`n_patients`, the known ones (None without any), and `n_patient_unknown`, images."""
    known = columns["patient_known"]
    return {
        "n_patients": len(np.unique(columns["patient_id"][known])) if known.any() else None,
        "n_patient_unknown": int((~known).sum()),
    }


def described(metrics: Mapping[str, Any]) -> str:
    """What `count` found, in words."""
    known, unknown = metrics["n_patients"], metrics.get("n_patient_unknown", 0)
    if known is None:
        return "unknown patients"
    return f"{known:,} patients" + (f" and {unknown:,} unknown ones" if unknown else "")


def overlap(train: Columns, judged: Columns) -> dict[str, int]:
    """How many judged images, or images of their patients, are in the training split.

    `unchecked`: judged images of which that cannot be said, since they, or some images of the
    training split, name no patient.
    """
    same_image = np.isin(judged["source_image"], train["source_image"])
    same_patient = judged["patient_known"] & np.isin(
        judged["patient_id"], train["patient_id"][train["patient_known"]]
    )
    sure = same_image | same_patient
    if train["patient_known"].all():
        sure |= judged["patient_known"]
    return {
        "images": int(same_image.sum()),
        "images_of_known_patients": int((same_image | same_patient).sum()),
        "unchecked": int((~sure).sum()),
    }
