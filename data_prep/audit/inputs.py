"""What the audit looks at: the tables, the header values, and the images where present."""

import dataclasses
import os
import sys

import numpy as np
from etils import epath

from data_prep.audit.near_duplicates import Look, find_pairs, look_at
from data_prep.cli import UserError, progress
from data_prep.rsna import Labels, list_images, read_labels, read_rows
from data_prep.workers import run_tasks

CONFOUNDERS = {
    "view": "ViewPosition",
    "sex": "PatientSex",
    "age": "PatientAge",
    "spacing": "PixelSpacing",
}


@dataclasses.dataclass
class Table:
    """What is known of the images that have labels and a patient, sorted by id.

    Attributes:
      ids, patients: (images,) names.
      label: (images,) 0 or 1.
      rows: (images,) rows in the table of labels.
      left_out: how many ids the tables contradict themselves about, or the mapping lacks.
    """

    ids: list[str]
    patients: list[str]
    label: np.ndarray
    rows: np.ndarray
    left_out: int


def read_table(raw: epath.Path, patients: dict[str, str]) -> Table:
    """The images that are usable.

    Raises:
      UserError: a table cannot be read, or the mapping is of other images.
    """
    labels = read_labels(raw)
    usable = {
        image_id: found
        for image_id, found in sorted(labels.items())
        if isinstance(found, Labels) and patients.get(image_id)
    }
    if len({patients[image_id] for image_id in usable}) < 20:
        raise UserError(
            f"{raw} and the mapping have fewer than 20 patients in common; give the mapping that "
            "belongs to these tables"
        )
    return Table(
        ids=list(usable),
        patients=[patients[image_id] for image_id in usable],
        label=np.array([found.target for found in usable.values()]),
        rows=np.array([found.rows for found in usable.values()]),
        left_out=len(labels) - len(usable),
    )


@dataclasses.dataclass
class Splits:
    """A split that somebody published, as the rows of its table.

    Attributes:
      image: (rows,) position of the row's image in `Table.ids`.
      name: (rows,) the split that the row puts it in.
      unknown: rows whose image has no usable label or no patient.
    """

    image: np.ndarray
    name: np.ndarray
    unknown: int


def read_splits(path: epath.Path, ids: list[str]) -> Splits:
    """A CSV file with the columns `image_id` and `split`; an image may stand in several splits.

    Raises:
      UserError: a column is missing, no row is of `train`, or all rows are.
    """
    place = {image_id: i for i, image_id in enumerate(ids)}
    columns = ("image_id", "split")
    mend = f"give --splits a CSV file with {', '.join(columns)}"
    rows = [
        (row["image_id"].strip(), row["split"].strip()) for row in read_rows(path, columns, mend)
    ]
    known = [(place[image_id], split) for image_id, split in rows if image_id in place]
    names = {split for _, split in known}
    if "train" not in names or len(names) < 2:
        raise UserError(
            f"{path} puts {len(known)} of its {len(rows)} rows' images, which the tables know, in "
            f"the splits {', '.join(sorted(names)) or '(none)'}; it needs train and at least "
            "another"
        )
    image, split = zip(*known, strict=True)
    return Splits(np.array(image), np.array(split), len(rows) - len(known))


def read_metadata(path: epath.Path, ids: list[str]) -> dict[str, dict[str, str]]:
    """image id -> confounder -> text, from a CSV file that has every id.

    Raises:
      UserError: it lacks an id or a column.
    """
    columns = ("patientId", *CONFOUNDERS.values())
    mend = f"give --metadata a CSV file with {', '.join(columns)}"
    rows = {row["patientId"]: row for row in read_rows(path, columns, mend)}
    missing = next((image_id for image_id in ids if image_id not in rows), None)
    if missing:
        raise UserError(f"{path} has no row for {missing}; give the table of all images")
    return {
        image_id: {name: rows[image_id][column] for name, column in CONFOUNDERS.items()}
        for image_id in ids
    }


def look_at_images(
    raw: epath.Path, ids: list[str], workers: int
) -> tuple[dict[str, dict[str, str]], np.ndarray]:
    """image id -> confounder -> text, from the images; and (pairs, 2) images that look alike."""
    files = {path.stem: os.fspath(path) for path in list_images(raw)}
    paths = {files[image_id]: image_id for image_id in ids if image_id in files}
    looks: dict[str, Look] = {}
    results = run_tasks(look_at, paths, workers=workers)
    for path, look in progress(results, "reading radiographs", len(paths)):
        if isinstance(look, Look):
            looks[paths[path]] = look
    if len(looks) < len(ids):
        print(f"warning: {len(ids) - len(looks)} images are missing or refused", file=sys.stderr)
    place = {image_id: i for i, image_id in enumerate(ids)}
    seen = sorted(looks)
    hashes = np.array([looks[image_id].hash for image_id in seen], np.uint64)
    pairs = find_pairs(hashes.reshape(-1, 4))
    headers: dict[str, dict[str, str]] = {image_id: {} for image_id in ids} | {
        image_id: {
            "view": look.header["view_position"],
            "sex": look.header["patient_sex"],
            "age": ""
            if look.header["patient_age"] is None
            else f"{look.header['patient_age']:.0f}",
            "spacing": str(look.header["pixel_spacing"] or ""),
        }
        for image_id, look in looks.items()
    }
    return headers, np.array([place[image_id] for image_id in seen], int)[pairs]
