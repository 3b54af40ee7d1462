"""Sources -> the records to be made, and what the tables alone already refuse."""

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

import numpy as np

from data_prep.cli import UserError
from data_prep.dicom import DicomRefusal
from data_prep.files.csv_files import to_utf8
from data_prep.records import SPLITS, Record, assign_split
from data_prep.tables.images import Row, TableImage, image_of_rows
from data_prep.tables.patients import merge_spellings
from data_prep.tables.source import UNKNOWN, Source

# What the user may have said wrong where no image is usable.
_FLAGS = {
    "no_file": "--raw and --image",
    "outside_folder": "--raw and --image",
    "no_label": "--label, --positive and --values",
    "no_patient": "--patient or --patient_from",
    "no_split": "--split_column",
    "bad_box": "--boxes and --corners",
}
_MAX_CLASSES = 100  # more are text, and no kinds of images


@dataclasses.dataclass(frozen=True)
class Plan:
    """The records to be made, and what is reported of them.

    Attributes:
      records: in the order of their names.
      refused: why a file, or a row without one, becomes no record.
      findings: what the labels are of.
      detailed_classes: every kind of image that occurs.
      scheme: "patient"; "image" where the patients are unknown; "column", "folder" or "official"
        where the splits are those of the table, the folders or the public data set.
      unnamed: source -> how many files of its folder no row names.
      merged_patients: those that are spelled in several ways, in words.
      patients_in_two_splits: names, with their namespace.
      has_own_validation: False where validation had to be taken from train.
    """

    records: tuple[Record, ...]
    refused: Mapping[str, DicomRefusal]
    findings: tuple[str, ...]
    detailed_classes: tuple[str, ...]
    scheme: str
    unnamed: Mapping[str, int]
    merged_patients: tuple[str, ...]
    patients_in_two_splits: tuple[str, ...]
    has_own_validation: bool

    @property
    def sha256(self) -> str:
        """Of everything that the records are made from, but the content of the files."""
        lines = [{**dataclasses.asdict(record), "path": record.file} for record in self.records] + [
            [name, refusal.code] for name, refusal in sorted(self.refused.items())
        ]
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def plan_records(
    sources: Sequence[Source],
    findings: Sequence[str],
    *,
    values: Sequence[str] = (),
    own_splits: str = "",
) -> Plan:
    """Everything that is to become a record.

    Args:
      sources: several are told apart by their names, which then begin the image ids.
      findings: the names of what the labels are of, in their order.
      values: the values that are the findings, where one column lists them.
      own_splits: the scheme where the sources have splits of their own, else "".

    Raises:
      UserError: a table lacks a column or a usable label, two findings have one name, or what the
        images are is free text.
    """
    names = [name.casefold() for name in findings]  # as other data sets are matched
    if twice := [name for name in findings if names.count(name.casefold()) > 1]:
        raise UserError(f"the findings {', '.join(twice)} have one name; name each once")
    gathered = _gather(sources, values)
    patients, merged = merge_spellings(
        (one.source.namespace, one.image.patient) for one in gathered.images if one.image.patient
    )
    records = [
        _record(one, patients.get((one.source.namespace, one.image.patient), ""), findings)
        for one in sorted(gathered.images, key=lambda one: one.name)
    ]
    splits = {record.split for record in records}
    has_validation = not own_splits or "validation" in splits or "train" not in splits
    if not has_validation:
        records = [_with_validation(record) for record in records]
    unknown = all(source.patient == UNKNOWN for source in sources)
    plan = Plan(
        records=tuple(records),
        refused=gathered.refused,
        findings=tuple(findings),
        detailed_classes=tuple(sorted({record.detailed_class for record in records})),
        scheme=own_splits or ("image" if unknown else "patient"),
        unnamed=gathered.unnamed,
        merged_patients=tuple(merged),
        patients_in_two_splits=_in_two_splits(records),
        has_own_validation=has_validation,
    )
    _check_labels(sources, plan)
    return plan


class _Named(NamedTuple):
    """An image with the file that a source names, and its name in the manifest."""

    source: Source
    file: str
    name: str
    image: TableImage


class _Gathered(NamedTuple):
    images: list[_Named]
    refused: dict[str, DicomRefusal]
    unnamed: dict[str, int]


def _gather(sources: Sequence[Source], values: Sequence[str]) -> _Gathered:
    """Every image of every source, once."""
    gathered = _Gathered([], {}, {})
    taken: dict[str, str] = {}  # real path -> name in the manifest
    for source in sources:
        prefix = f"{source.name}/" if len(sources) > 1 else ""
        by_file, refused = _rows_by_file(source)
        usable = 0
        for file, rows in by_file.items():
            name, real = prefix + file, source.folder.real_path(file)
            try:
                if taken.setdefault(real, name) != name:
                    raise DicomRefusal("duplicate", f"it is {taken[real]}, which has a record")
                image = image_of_rows(rows, source, values)
                gathered.images.append(_Named(source, file, name, image))
                usable += 1
            except DicomRefusal as refusal:
                refused[file] = refusal
        if not usable:
            _refuse_source(source, refused)
        gathered.refused.update({prefix + file: refusal for file, refusal in refused.items()})
        gathered.unnamed[source.name] = len(set(source.folder.names) - by_file.keys())
    return gathered


def _record(one: _Named, patient: str, findings: Sequence[str]) -> Record:
    source, image = one.source, one.image
    return Record(
        image_id=to_utf8(one.name),
        path=source.folder.path(one.file),
        split=image.split or assign_split(patient or one.name),
        label=image.label if len(findings) > 1 else image.label[0],
        detailed_class=image.detailed_class or _plain_class(image.label, findings),
        boxes=image.boxes,
        patient_id=f"{source.namespace}:{patient}" if patient else "",
        file=one.name,
        view=image.view,
        sex=image.sex,
        age=image.age,
        spacing=image.spacing,
        source=image.origin or source.name,
    )


def _rows_by_file(source: Source) -> tuple[dict[str, list[Row]], dict[str, DicomRefusal]]:
    """The rows of each file, and why the cells that name none do not."""
    by_file: dict[str, list[Row]] = defaultdict(list)
    missing = {}
    rows = source.chosen_rows()[source.columns()]
    for number, row in zip(rows.index, rows.to_dict("records"), strict=True):
        cell = row[source.image]
        try:
            by_file[source.folder.find(cell)].append(row)
        except DicomRefusal as refusal:
            missing[cell or f"row {number + 2} of {source.name}"] = refusal
    return by_file, missing


def _refuse_source(source: Source, refused: Mapping[str, DicomRefusal]) -> NoReturn:
    """A wrong --raw, --image or --label makes every image of a source unusable."""
    codes = Counter(refusal.code for refusal in refused.values())
    ((code, _),) = codes.most_common(1)
    name, refusal = next(pair for pair in refused.items() if pair[1].code == code)
    raise UserError(
        f"{source.name} gives no usable image: {dict(codes)}, such as {name}: {refusal.message}"
        f"{_label_values(source) if code == 'no_label' else ''}; see {_FLAGS.get(code, '--label')}"
    )


def _check_labels(sources: Sequence[Source], plan: Plan) -> None:
    """A wrong --positive shows as a finding that no image has, or every image.

    So does a column of free text as the class, by its many values.
    """
    if len(plan.detailed_classes) > _MAX_CLASSES:
        raise UserError(
            f"--detailed_class has {len(plan.detailed_classes)} different values, such as "
            f"{plan.detailed_classes[0]!r}; choose a column with a few kinds of images"
        )
    labels = np.array([record.label for record in plan.records]).reshape(-1, len(plan.findings))
    for finding, column in zip(plan.findings, labels.T, strict=True):
        is_in_every = len(plan.findings) == 1 and (column == 1).all()
        if is_in_every or not (column == 1).any():
            raise UserError(
                f"{'every' if is_in_every else 'no'} image has {finding!r}"
                f"{''.join(map(_label_values, sources))}; a label is 0 or 1, false or true, or "
                "--positive says which value means that the finding is there"
            )


def _label_values(source: Source) -> str:
    rows = source.chosen_rows()
    return "".join(
        f"; in {source.name} {column!r} is "
        + ", ".join(f"{value!r} ({count})" for value, count in Counter(rows[column]).most_common(6))
        for column in source.labels[:3]
    )


def _plain_class(label: tuple[int, ...], findings: Sequence[str]) -> str:
    if len(findings) > 1:
        return "several findings"
    return findings[0] if label[0] == 1 else f"no {findings[0]}"


def _with_validation(record: Record) -> Record:
    """Takes 15 % of the patients of train for validation, by the same hash as ever."""
    unit = record.patient_id.partition(":")[2] or record.image_id
    move = record.split == "train" and assign_split(unit) == "validation"
    return dataclasses.replace(record, split="validation") if move else record


def _in_two_splits(records: Sequence[Record]) -> tuple[str, ...]:
    splits = defaultdict(set)
    for record in records:
        if record.patient_id:
            splits[record.patient_id].add(record.split)
    return tuple(sorted(patient for patient, found in splits.items() if len(found) > 1))


def check_plan(plan: Plan, max_rejected: float) -> None:
    """What can be known before hours of reading images.

    Raises:
      UserError: the share of inputs that are refused already is over `max_rejected`, or a split
        would be empty and the splits are not the sources' own.
    """
    refused, inputs = len(plan.refused), len(plan.refused) + len(plan.records)
    if refused > max_rejected * inputs:
        name, refusal = next(iter(plan.refused.items()))
        raise UserError(
            f"{refused:,} of {inputs:,} inputs are refused already, such as {name!r} "
            f"({refusal.code}: {refusal.message}), more than --max_rejected allows; mend the table "
            "or allow more with --max_rejected"
        )
    sizes = Counter(record.split for record in plan.records)
    for split in SPLITS:
        if not sizes[split] and plan.scheme in ("patient", "image"):
            codes = dict(Counter(refusal.code for refusal in plan.refused.values()))
            raise UserError(
                f"the {split} split would be empty: {_amount(plan.records)} usable"
                f"{f', and refused were {codes}' if codes else ''}; give more of them"
            )


def _amount(records: Sequence[Record]) -> str:
    patients = len({record.patient_id for record in records} - {""})
    return f"{len(records):,} images{f' of {patients:,} patients' if patients else ''} are"
