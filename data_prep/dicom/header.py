"""The header of a DICOM file as plain values; damaged values count as missing."""

import math
import re
from typing import Any

import pydicom
from pydicom import uid

_TEXT_KEYWORDS = {
    "sop_class_uid": "SOPClassUID",
    "sop_instance_uid": "SOPInstanceUID",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "patient_sex": "PatientSex",
    "patient_birth_date": "PatientBirthDate",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "study_id": "StudyID",
    "accession_number": "AccessionNumber",
    "modality": "Modality",
    "body_part": "BodyPartExamined",
    "series_description": "SeriesDescription",
    "view_position": "ViewPosition",
    "photometric": "PhotometricInterpretation",
    "synthetic_data": "SyntheticData",
    "presentation_intent": "PresentationIntentType",
}
HEADER_KEYWORDS = (*_TEXT_KEYWORDS.values(), "PatientAge", "PixelSpacing", "ImagerPixelSpacing")


def read_header(dataset: pydicom.Dataset) -> dict[str, Any]:
    """Strings ("" when missing); `rows` and `columns`; age in years and spacing in mm, or None."""
    header: dict[str, Any] = {key: _text(dataset, word) for key, word in _TEXT_KEYWORDS.items()}
    if not header["view_position"]:  # the RSNA challenge has it here too
        found = re.match(r"view: (\w+)$", header["series_description"])
        header["view_position"] = found[1] if found else ""
    if header["sop_class_uid"] == uid.DigitalXRayImageStorageForProcessing:
        header["presentation_intent"] = "FOR PROCESSING"
    header["patient_age"] = parse_age(_text(dataset, "PatientAge"))
    header["pixel_spacing"] = _spacing(dataset)
    header["rows"], header["columns"] = int(dataset.Rows), int(dataset.Columns)
    return header


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
        return "" if value is None else str(value).strip().replace("\0", "")
    except Exception:  # a damaged value counts as missing; no reason to refuse the image
        return ""


def parse_age(text: str) -> float | None:
    """An age string ("051Y", "006M", "003W", "010D", or a bare "51") in years.

    None when it is missing, malformed or no human age: the RSNA data has ages up to 155.
    """
    found = re.fullmatch(r"(\d{1,3})([YMWD]?)", text.strip().upper())
    if not found:
        return None
    years = int(found[1]) / {"": 1, "Y": 1, "M": 12, "W": 52.18, "D": 365.25}[found[2]]
    return years if years <= 120 else None


def _spacing(dataset: pydicom.Dataset) -> float | None:
    """Millimetres between rows; at the detector where it is not known in the patient."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            spacing = float(dataset.get(keyword)[0])
        except Exception:  # as in _text
            continue
        if math.isfinite(spacing) and 0 < spacing < 10:
            return spacing
    return None
