"""All rows of one image -> what the table says of it, where they agree."""

import dataclasses
import math
import re
from collections.abc import Sequence

from data_prep.dicom import DicomRefusal
from data_prep.dicom.header import parse_age
from data_prep.manifest import NOT_LABELLED
from data_prep.records import Box
from data_prep.tables.labels import read_label
from data_prep.tables.patients import clean, key
from data_prep.tables.source import UNKNOWN, Source

Row = dict[str, str]
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclasses.dataclass(frozen=True)
class TableImage:
    """What the table says of an image.

    Attributes:
      label: one per finding.
      patient: the cell; "" where the patients are unknown.
      split: that of the table; "" where it has none.
      detailed_class, view, sex, age, spacing, origin: None where the table does not say.
    """

    label: tuple[int, ...]
    patient: str
    split: str
    boxes: tuple[Box, ...]
    detailed_class: str | None
    view: str | None
    sex: str | None
    age: float | None
    spacing: float | None
    origin: str | None


def image_of_rows(rows: Sequence[Row], source: Source, values: Sequence[str]) -> TableImage:
    """What the rows of one image say.

    Args:
      values: as for `labels.read_label`.

    Raises:
      DicomRefusal: no_label, no_patient, no_split, bad_box, or conflicting_labels where the rows
        contradict each other.
    """
    (label,) = _agreed(
        "the label",
        {
            read_label([row[name] for name in source.labels], source.positive, values)
            for row in rows
        },
    )
    if set(label) == {NOT_LABELLED}:
        cells = ", ".join(f"{name} is {rows[0][name]!r}" for name in source.labels[:3])
        raise DicomRefusal("no_label", cells)
    patient = "" if source.patient == UNKNOWN else _patient(rows, source.patient)
    split = _cell(rows, source.split)
    if source.split and split.casefold() not in SPLIT_NAMES:
        raise DicomRefusal("no_split", f"{source.split} is {split!r}")
    return TableImage(
        label=label,
        patient=patient,
        split=SPLIT_NAMES.get(split.casefold(), ""),
        boxes=tuple(dict.fromkeys(box for row in rows if (box := _box(row, source)))),
        detailed_class=" ".join(_cell(rows, source.detailed_class).split()) or None,
        view=_cell(rows, source.view).upper() or None,
        sex=_sex(_cell(rows, source.sex)),
        age=parse_age(clean(_cell(rows, source.age))),
        spacing=_spacing(_cell(rows, source.spacing)),
        origin=_cell(rows, source.origin) or None,
    )


def _agreed(what: str, found: set) -> set:
    if len(found) > 1:
        told = " and ".join(str(one) for one in sorted(found)[:2])
        raise DicomRefusal("conflicting_labels", f"of the rows of this image {what} is {told}")
    return found


def _cell(rows: Sequence[Row], column: str) -> str:
    """What all rows have in a column; "" where there is no such column."""
    if not column:
        return ""
    (cell,) = _agreed(column, {row[column] for row in rows})
    return cell


def _patient(rows: Sequence[Row], column: str) -> str:
    """The patient of all rows, in the longest of the spellings that are one patient."""
    spellings = {clean(row[column]) for row in rows}
    if len({spelling and key(spelling) for spelling in spellings}) > 1:
        _agreed(column, spellings)
    patient = max(spellings, key=lambda text: (len(text), text))
    if not patient:
        raise DicomRefusal("no_patient", f"the column {column!r} is empty")
    return patient


def _sex(cell: str) -> str | None:
    found = re.fullmatch(r"(m|f)(ale|emale)?", cell.casefold())
    return found[1].upper() if found else cell or None


def _spacing(cell: str) -> float | None:
    r"""Millimetres per pixel; the first of two, as in "0.14\0.14" or "[0.14, 0.14]"."""
    found = re.search(r"\d*\.?\d+(e-?\d+)?", cell)
    spacing = float(found[0]) if found else 0.0
    return spacing if 0 < spacing < 10 else None


def _box(row: Row, source: Source) -> Box | None:
    """The box of a row; None where all its cells are empty, as they are for a negative image."""
    columns = source.boxes or source.corners
    texts = [row[name] for name in columns]
    if all(text.casefold() in ("", "nan") for text in texts):
        return None
    try:
        xmin, ymin, x, y = map(float, texts)
    except ValueError:
        raise DicomRefusal("bad_box", f"{', '.join(columns)} are {texts}") from None
    xmax, ymax = (x + xmin, y + ymin) if source.boxes else (x, y)
    if not all(map(math.isfinite, (xmin, ymin, xmax, ymax))) or xmax <= xmin or ymax <= ymin:
        raise DicomRefusal("bad_box", f"{', '.join(columns)} are {texts}")
    return (ymin, xmin, ymax, xmax)
