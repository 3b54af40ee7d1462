"""The tables of the RSNA Pneumonia Detection Challenge: labels, boxes, real patients, splits."""

import csv
import dataclasses
import io
import math
import os
from collections import defaultdict
from collections.abc import Iterator

from etils import epath

from data_prep.cli import UserError
from data_prep.dicom import DicomRefusal
from data_prep.files.regular_files import read_bytes
from data_prep.records import Box, Record, assign_split

IMAGES = "stage_2_train_images"
LABELS = "stage_2_train_labels.csv"
CLASSES = "stage_2_detailed_class_info.csv"
CLASS_NAMES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")
POSITIVE_CLASS = "Lung Opacity"

SCHEMES = ("patient", "image", "row")
_MAX_TABLE_BYTES = 1 << 28  # a hundred times the challenge's
_MEND = f"--raw must be the folder of the challenge's download, with {LABELS} in it"


@dataclasses.dataclass
class Labels:
    """What the tables say about one image id; `boxes` in pixels of the image."""

    target: int
    detailed_class: str
    boxes: list[Box]
    rows: int


def read_rows(
    path: epath.Path, columns: tuple[str, ...], mend: str = _MEND
) -> Iterator[dict[str, str]]:
    """The rows of a CSV file that must have these columns.

    Args:
      mend: what the user can do where the file cannot be read, as the last clause of the error.

    Raises:
      UserError: there is no such file, it is not text, or a column is missing.
    """
    try:
        local = "://" not in os.fspath(path)
        data = read_bytes(path, _MAX_TABLE_BYTES) if local else path.read_bytes()
        text = data.decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{path} has no column {missing[0]!r}; it must have {', '.join(columns)}, as the "
                "challenge's own file has"
            )
        yield from reader
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}); {mend}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV text file ({error}); download it again") from error


def read_labels(raw: epath.Path) -> dict[str, Labels | DicomRefusal]:
    """What the two tables say about each id, or why what they say cannot be used.

    Raises:
      UserError: a table is missing or lacks a column.
    """
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in read_rows(raw / LABELS, ("patientId", "x", "y", "width", "height", "Target")):
        rows[row["patientId"]].append(row)
    classes: dict[str, set[str]] = defaultdict(set)
    for row in read_rows(raw / CLASSES, ("patientId", "class")):
        classes[row["patientId"]].add(row["class"])
    result: dict[str, Labels | DicomRefusal] = {}
    for image_id in rows.keys() | classes.keys():
        try:
            result[image_id] = _labels_of_id(rows.get(image_id, []), classes.get(image_id, set()))
        except DicomRefusal as refusal:
            result[image_id] = refusal
    return result


def _labels_of_id(rows: list[dict[str, str]], classes: set[str]) -> Labels:
    if not rows or not classes:
        raise DicomRefusal("no_label", f"no row in {CLASSES if rows else LABELS}")
    targets = {row["Target"].strip() for row in rows}
    if len(targets) > 1 or len(classes) > 1:
        raise DicomRefusal(
            "conflicting_labels", f"Target {sorted(targets)} and class {sorted(classes)}"
        )
    (target,), (detailed_class,) = targets, classes
    if target not in ("0", "1") or detailed_class not in CLASS_NAMES:
        raise DicomRefusal("no_label", f"Target {target!r} and class {detailed_class!r}")
    if (target == "1") != (detailed_class == POSITIVE_CLASS):
        raise DicomRefusal("conflicting_labels", f"Target {target} but class {detailed_class!r}")
    boxes = [box for row in rows if (box := _box(row, target == "1"))]
    if len(rows) > max(1, len(set(boxes))):
        raise DicomRefusal("duplicate", "the same row more than once in the table of labels")
    return Labels(int(target), detailed_class, boxes, len(rows))


def _box(row: dict[str, str], is_positive: bool) -> Box | None:
    texts = [row[name].strip() for name in ("x", "y", "width", "height")]
    if not is_positive:
        if any(text.lower() not in ("", "nan") for text in texts):
            raise DicomRefusal("conflicting_labels", "Target 0 but a box")
        return None
    try:
        x, y, width, height = map(float, texts)
    except ValueError:
        raise DicomRefusal("bad_box", f"x, y, width, height are {texts}") from None
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise DicomRefusal("bad_box", f"x, y, width, height are {texts}")
    return (y, x, y + height, x + width)


def plan_records(
    raw: epath.Path, patients: dict[str, str] | None, scheme: str
) -> tuple[list[Record], dict[str, DicomRefusal]]:
    """Everything that is to become a record, and what the tables alone already refuse.

    Args:
      raw: the folder of the challenge's download.
      patients: image id -> real patient; needed for the `patient` scheme.
      scheme: what is assigned to a split as a whole: a "patient", an "image" (so that a patient's
        images leak), or a "row" of the table of labels (so that an image leaks into several
        splits, once per box). In the "row" scheme ids carry the number of the row: "id#0".

    Returns:
      Records sorted by image id, and refusals by file name.

    Raises:
      UserError: a table, the folder of images or the mapping is missing.
    """
    labels = read_labels(raw)
    files, refused = _files_by_id(raw)
    records = []
    for image_id in sorted(labels.keys() | files.keys()):
        name = files[image_id].name if image_id in files else f"{image_id}.dcm"
        found = labels.get(image_id)
        patient = (patients or {}).get(image_id, "")
        try:
            if "/" in image_id or "\\" in image_id or "\0" in image_id or image_id in ("", ".."):
                raise DicomRefusal("outside_folder", f"{image_id!r} is not a plain file name")
            if found is None:
                raise DicomRefusal("no_label", f"no row in {LABELS}")
            if isinstance(found, DicomRefusal):
                raise found
            if image_id not in files:
                raise DicomRefusal("no_file", f"no such file in {IMAGES}")
            if scheme == "patient" and not patient:
                raise DicomRefusal("no_patient", "the mapping names no patient, or two, for it")
        except DicomRefusal as refusal:
            refused[name] = refusal
            continue
        units = {
            "patient": {image_id: patient},
            "image": {image_id: image_id},
            "row": {f"{image_id}#{k}": f"{image_id}#{k}" for k in range(found.rows)},
        }[scheme]
        records += [
            Record(
                image_id=record_id,
                path=os.fspath(files[image_id]),
                split=assign_split(unit),
                label=found.target,
                detailed_class=found.detailed_class,
                boxes=tuple(found.boxes),
                patient_id=patient,
            )
            for record_id, unit in units.items()
        ]
    return records, refused


def list_images(raw: epath.Path) -> list[epath.Path]:
    """Everything in the folder of images, sorted by name.

    Raises:
      UserError: there is no such folder, or no DICOM file in it.
    """
    folder = raw / IMAGES
    try:
        files = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise UserError(
            f"cannot list {folder} ({error.strerror or error}); --raw must be the folder of the "
            f"challenge's download, with {IMAGES}/ in it"
        ) from error
    if not any(path.suffix.lower() == ".dcm" for path in files):
        raise UserError(f"{folder} holds no .dcm file; --raw must be the challenge's download")
    return files


def _files_by_id(raw: epath.Path) -> tuple[dict[str, epath.Path], dict[str, DicomRefusal]]:
    files: dict[str, epath.Path] = {}
    refused = {}
    for path in list_images(raw):
        if path.suffix.lower() != ".dcm":
            refused[path.name] = DicomRefusal("not_dicom", "the name does not end in .dcm")
        elif path.stem in files:
            refused[path.name] = DicomRefusal("duplicate", f"{files[path.stem].name} has the id")
        else:
            files[path.stem] = path
    return files, refused
