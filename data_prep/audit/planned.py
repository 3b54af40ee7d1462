"""What the audit looks at in a data set that a plan describes: images, labels and every column."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from data_prep.audit.columns import Column
from data_prep.audit.near_duplicates import Look, find_pairs, look_at
from data_prep.cli import UserError, progress
from data_prep.dicom import DicomRefusal
from data_prep.radiographs import first_known
from data_prep.records import Record
from data_prep.tables.files import ImageFolder
from data_prep.tables.plan import Plan
from data_prep.tables.source import UNKNOWN, Source
from data_prep.workers import run_tasks

# What uses a column of a table as -> why it is not tested as it is.
_USES = {
    "image": "it names the file",
    "patient": "it names the patient",
    "detailed_class": "a finer label",
    "labels": "the label",
    "boxes": "boxes are of positive images",
    "corners": "boxes are of positive images",
}
_ROLES = ("view", "sex", "age", "spacing", "origin")  # tested under these names


@dataclasses.dataclass(frozen=True)
class Planned:
    """The images of a plan that can be read, in its order.

    Attributes:
      ids, splits: (images,) texts.
      labels: (images, findings) 0, 1 or `manifest.NOT_LABELLED`.
      patients: (images,) names; "" where a patient is unknown.
      scheme: as `Plan.scheme`.
      columns: what may predict a label.
      untested: column -> why it is not among them.
      duplicates: (pairs, 2) images that look alike.
      refused: how many files were refused, by code.
    """

    ids: np.ndarray
    splits: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    findings: tuple[str, ...]
    scheme: str
    columns: Mapping[str, Column]
    untested: Mapping[str, str]
    duplicates: np.ndarray
    refused: Mapping[str, int]


def look_at_plan(plan: Plan, sources: Sequence[Source], workers: int) -> Planned:
    """Reads every image of a plan.

    Raises:
      UserError: none can be read.
    """
    tasks = {record.path: record for record in plan.records}
    looks: dict[str, Look] = {}
    refused = Counter(refusal.code for refusal in plan.refused.values())
    results = run_tasks(look_at, tasks, workers=workers)
    for path, look in progress(results, "reading radiographs", len(tasks)):
        if isinstance(look, Look):
            looks[tasks[path].image_id] = look
        else:
            refused[look.code] += 1
    records = [record for record in plan.records if record.image_id in looks]
    if not records:
        raise UserError(f"none of the {len(tasks)} images can be read ({dict(refused)}); see --raw")
    seen = [looks[record.image_id] for record in records]
    own, untested = _own_columns(records, sources)
    return Planned(
        ids=np.array([record.image_id for record in records]),
        splits=np.array([record.split for record in records]),
        labels=np.array([record.label for record in records]).reshape(len(records), -1),
        patients=np.array([record.patient_id for record in records]),
        findings=plan.findings,
        scheme=plan.scheme,
        columns=_of_files(records, seen) | own,
        untested=untested,
        duplicates=find_pairs(np.stack([look.hash for look in seen])),
        refused=dict(sorted(refused.items())),
    )


def _of_files(records: Sequence[Record], looks: Sequence[Look]) -> dict[str, Column]:
    """What a file itself shows, and what the records say of every image."""
    rows: list[dict[str, Any]] = []
    for record, (header, _) in zip(records, looks, strict=True):
        size = header["rows"], header["columns"]
        rows.append(
            {
                "source": record.source,
                "format": header["format"],
                "rows": size[0],
                "columns": size[1],
                "aspect": f"{size[1] / size[0]:.2f}",
                "view": first_known(record.view, header["view_position"]),
                "sex": first_known(record.sex, header["patient_sex"]),
                "age": first_known(record.age, header["patient_age"]),
                "spacing": first_known(record.spacing, header["pixel_spacing"]),
            }
        )
    everywhere = np.ones(len(rows), bool)
    return {
        name: Column(np.array([_text(row[name]) for row in rows]), everywhere) for name in rows[0]
    }


def _text(value: Any) -> str:
    """Spacings to the micrometre: what differs less is rounding."""
    if value is None:
        return ""
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _own_columns(
    records: Sequence[Record], sources: Sequence[Source]
) -> tuple[dict[str, Column], dict[str, str]]:
    """Every column of the tables that nothing else stands for; and why the others are left out.

    Columns of one name in several tables are one column.
    """
    ids = [record.image_id for record in records]
    cells: dict[str, pd.Series] = {}
    untested: dict[str, str] = {}
    for source in sources:
        uses = _used(source)
        prefix = f"{source.name}/" if len(sources) > 1 else ""
        rows = source.chosen_rows()
        files = rows[source.image].map(lambda cell, folder=source.folder: _find(folder, cell))
        for name in rows.columns:
            if name in uses:
                untested |= {f"column {name}": uses[name]} if uses[name] else {}
                continue
            # The rows of one image, as of its boxes, may differ.
            of_image = rows[name].groupby(files).agg(lambda texts: "|".join(sorted(set(texts))))
            of_image.index = prefix + of_image.index
            known = of_image[of_image.index.isin(ids)]
            cells[name] = pd.concat([cells[name], known]) if name in cells else known
    columns = {}
    for name, found in cells.items():
        column = found.reindex(ids)
        columns[f"column {name}"] = Column(
            column.fillna("").to_numpy(str), column.notna().to_numpy()
        )
    return columns, untested


def _used(source: Source) -> dict[str, str]:
    """Column -> why it is not tested as it is; "" where it is tested under another name."""
    uses = {}
    for role in (*_ROLES, *_USES):
        given = getattr(source, role)
        for name in (given,) if isinstance(given, str) else given:
            if name and name != UNKNOWN:
                uses[name] = _USES.get(role, "")
    return uses


def _find(folder: ImageFolder, cell: str) -> str | None:
    """The file that a cell names; None where the plan has refused it."""
    try:
        return folder.find(cell)
    except DicomRefusal:
        return None
