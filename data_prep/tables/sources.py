"""The flags of `data_prep.prepare` -> the sources, and the findings of their labels."""

import argparse
import csv
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data_prep.cli import UserError
from data_prep.tables import folders
from data_prep.tables.files import ImageFolder
from data_prep.tables.labels import is_missing, is_normal, split_cell
from data_prep.tables.options import COLUMNS, data_set_name
from data_prep.tables.reading import read_table
from data_prep.tables.source import UNKNOWN, Source


def folder_source(args: argparse.Namespace) -> tuple[Source, list[str], list[str]]:
    """The source of a folder of classes, its findings, and the values that are findings."""
    if not args.patient_from:
        raise UserError(
            "--dataset=folders needs --patient_from, a regular expression that finds the patient "
            "in a file's name, or images of one patient come into train and test; where nothing "
            "names the patients, say --patient_from=unknown"
        )
    _refuse_ignored(args)
    (raw,) = _only_one(args.raw, "raw")
    _check_outside(args, raw)
    folder = ImageFolder(epath.Path(raw))
    rows = folders.read_folders(folder, args.patient_from)
    classes = sorted(set(rows[folders.CLASS]))
    values = _values(args.values, classes) if args.values else []
    given = _only_one(args.positive or [""], "positive")[0]
    positive = "" if values else folders.positive_class(classes, given)
    name = data_set_name(args.name, raw)
    source = Source(
        name=name,
        rows=rows,
        folder=folder,
        image=folders.IMAGE,
        patient=folders.patient_column(args.patient_from),
        namespace=_namespace((args.patients_of or [name])[0]),
        labels=(folders.CLASS,),
        positive=re.escape(positive),
        split=folders.SPLIT if args.splits == "folder" else "",
        detailed_class=folders.CLASS,
    )
    if source.split and not any(rows[folders.SPLIT]):
        raise UserError(f"{raw} has no folders train, val and test; leave --splits=folder out")
    return source, values or list(args.finding or [positive]), values


def _check_outside(args: argparse.Namespace, raw: str) -> None:
    """Records among the folders of classes would be one more class the next time."""
    data_dir = getattr(args, "data_dir", None) or ""  # the audit has none
    inside = pathlib.Path(data_dir).resolve().is_relative_to(pathlib.Path(raw).resolve())
    if data_dir and "://" not in data_dir and inside:
        raise UserError(
            f"--data_dir={data_dir} lies in --raw={raw}, whose folders are classes; give a "
            "--data_dir outside of it"
        )


def table_sources(args: argparse.Namespace) -> tuple[list[Source], list[str], list[str]]:
    """The sources of the tables, the findings, and the values that are findings.

    Raises:
      UserError: something is missing, contradicts the rest, or cannot be read.
    """
    _check_table_flags(args)
    _refuse_ignored(args)
    count = len(args.table)
    raws = _each(args, "raw", count)
    paths = [find_table(table, raw) for table, raw in zip(args.table, raws, strict=True)]
    args.patients_of = args.patients_of or [data_set_name(args.name, args.table[0])]
    image_folders = {raw: ImageFolder(epath.Path(raw)) for raw in dict.fromkeys(raws)}
    per_table: Mapping[str, Sequence[Any]] = {
        "name": _unique([path.stem for path in paths]),
        "rows": [read_table(path) for path in paths],
        "folder": [image_folders[raw] for raw in raws],
        "image": _each(args, "image", count),
        "patient": _each(args, "patient", count),
        "namespace": [_namespace(name) for name in _each(args, "patients_of", count)],
        "labels": [tuple(args.label)] if count == 1 else _lists(args, "label", count),
        "positive": _each(args, "positive", count),
        "where": _conditions(args, count),
        "boxes": _lists(args, "boxes", count),
        "corners": _lists(args, "corners", count),
    } | {field: _each(args, flag, count) for flag, field in COLUMNS.items()}
    sources = [
        Source(**{field: values[i] for field, values in per_table.items()}) for i in range(count)
    ]
    if len({source.patient == UNKNOWN for source in sources}) > 1:
        raise UserError(
            "--patient=unknown for only some tables: their images cannot be kept apart from those "
            "of known patients; prepare them as a data set of their own"
        )
    return sources, *_findings(args, sources)


def find_table(table: str, raw: str) -> epath.Path:
    """The table's file: as it was given, or else in the folder of the images."""
    path, inside = epath.Path(table), epath.Path(raw) / table
    return inside if not path.exists() and inside.exists() else path


def _refuse_ignored(args: argparse.Namespace) -> None:
    for flag in ("positive", "finding"):
        if args.values and getattr(args, flag):
            raise UserError(f"--values are findings by their own names; leave --{flag} out")


def _check_table_flags(args: argparse.Namespace) -> None:
    for flag, why in {
        "table": "the file with a row for each image",
        "image": "the column that names the image file",
        "label": "the column of the label",
        "patient": "the column of the patient, or images of one patient come into train and test; "
        "where nothing names the patients, say --patient=unknown",
    }.items():
        if not getattr(args, flag):
            raise UserError(f"--dataset=table needs --{flag}: {why}")
    if len(args.table) > 1 and not args.patients_of:
        raise UserError(
            "several tables need --patients_of, which says whose patients they are: the same name "
            "for tables that number the same patients (who then stay in one split), different "
            "names where 7 is another person in each"
        )
    if args.boxes and args.corners:
        raise UserError("--boxes and --corners are two ways to say the same; give one of them")


def _findings(args: argparse.Namespace, sources: Sequence[Source]) -> tuple[list[str], list[str]]:
    first = list(sources[0].labels)
    if args.values:
        for source in sources:
            if len(source.labels) != 1:
                raise UserError("--values are those of one column; give one --label")
        if args.values == "all" and len(sources) > 1:
            raise UserError("--values=all is for one table; name the findings of several tables")
        occurring = [_occurring(source) for source in sources]
        values = _values(args.values, sorted(occurring[0]))
        for source, found in zip(sources, occurring, strict=True):
            if strange := [value for value in values if value not in found]:
                raise UserError(
                    f"the column {source.labels[0]!r} of {source.name} never has {strange[0]!r}; "
                    f"it has {', '.join(sorted(found)[:20])}"
                )
        return values, values
    findings = list(args.finding or first)
    if len(findings) != len(first) or any(len(one.labels) != len(first) for one in sources):
        raise UserError(
            f"{len(first)} columns of labels and {len(findings)} names of findings; give as many "
            "--finding as --label, and every table the same number of them"
        )
    if not args.finding and any(list(source.labels) != first for source in sources):
        raise UserError("the tables call their labels differently; name the findings by --finding")
    return findings, []


def _occurring(source: Source) -> set[str]:
    cells = set(source.chosen_rows()[source.labels[0]])
    return {value for cell in cells if not is_missing(cell) for value in split_cell(cell)}


def _values(given: str, occurring: list[str]) -> list[str]:
    if given == "all":
        return [value for value in occurring if not is_normal(value)]
    return list(_split(given))


def _each(args: argparse.Namespace, flag: str, count: int) -> list[str]:
    """What a flag says of each table; "" where it was not given."""
    given = getattr(args, flag) or [""]
    if len(given) == 1:
        return given * count
    if len(given) != count:
        raise UserError(
            f"--{flag} is given {len(given)} times for {count} table(s); give it once for all "
            "tables, or once for each in the same order"
        )
    return given


def _lists(args: argparse.Namespace, flag: str, count: int) -> list[tuple[str, ...]]:
    """Columns with commas between them, for each table."""
    lists = [_split(text) if text else () for text in _each(args, flag, count)]
    if flag != "label" and any(len(one) not in (0, 4) for one in lists):
        raise UserError(f"--{flag} is four columns, separated by commas")
    return lists


def _conditions(args: argparse.Namespace, count: int) -> list[tuple[tuple[str, str], ...]]:
    """Of one table every --where holds; of several tables each has its own."""
    if count == 1:
        return [tuple(map(_condition, args.where or ()))]
    return [(_condition(text),) if text else () for text in _each(args, "where", count)]


def _split(text: str) -> tuple[str, ...]:
    """At commas, but not in a column's name that stands in quotation marks."""
    return tuple(part.strip() for part in next(csv.reader([text], skipinitialspace=True)))


def _condition(text: str) -> tuple[str, str]:
    column, equals, pattern = text.partition("=")
    if not equals:
        raise UserError(f"--where={text} has no =; give COLUMN=REGEX")
    return column, pattern


def _namespace(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"--patients_of={name} must be letters, digits, _, - or .")
    return name


def _only_one(given: list[str], flag: str) -> list[str]:
    if len(given) != 1:
        raise UserError(f"--{flag} is given {len(given)} times; give it once")
    return given


def _unique(names: list[str]) -> list[str]:
    """The names, with a number where one occurs again."""
    return [
        name if name not in names[:i] else f"{name}_{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]
