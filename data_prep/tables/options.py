"""The flags of `data_prep.prepare` for tables and folders."""

import argparse
import re
from pathlib import PurePosixPath

from data_prep.cli import UserError

NAMED_SETS = ("nih", "kermany", "chexpert", "padchest", "vindr")
_TAKEN = ("rsna_pneumonia", "pneumonia_mnist")
# Flags of a column that may be left out -> the attribute of `Source`.
COLUMNS = {
    "split_column": "split",
    "view": "view",
    "sex": "sex",
    "age": "age",
    "spacing": "spacing",
    "source": "origin",
    "detailed_class": "detailed_class",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options; none has a default, so that `check_flags` sees which were given."""
    both = parser.add_argument_group(
        "for --dataset=table and --dataset=folders",
        "docs/data.md, 'Your own images', explains them with examples. Public data sets take "
        "--name, --label (the finding, or all) and --dry-run.",
    )
    add = both.add_argument
    add("--name", help="of the data set (default: the table's or the folder's)")
    add("--positive", action="append", help="the value, class or regex that means positive")
    add("--finding", action="append", help="name of the finding (default: its column or class)")
    add("--values", help="A,B,C or all: values of the one label column, each a finding")
    add("--patients_of", action="append", help="namespace of the patients (default: --name)")
    add(
        "--dry-run",
        "--dry_run",
        action="store_true",
        default=None,
        help="print the plan, write nothing",
    )
    table = parser.add_argument_group(
        "for --dataset=table",
        "With --table repeated, each of these and --raw is given once for all tables, or once for "
        "each in the same order.",
    )
    add = table.add_argument
    add("--table", action="append", help="CSV or Parquet; may be repeated")
    add("--image", action="append", metavar="COLUMN", help="names the image file in --raw")
    add("--patient", action="append", metavar="COLUMN", help="or 'unknown'")
    add("--label", action="append", metavar="COLUMN", help="repeated for several findings")
    add("--where", action="append", metavar="COLUMN=REGEX", help="use only the rows that match")
    for flag in COLUMNS:
        add(f"--{flag}", action="append", metavar="COLUMN")
    add("--boxes", action="append", metavar="X,Y,WIDTH,HEIGHT", help="four columns, in pixels")
    add("--corners", action="append", metavar="XMIN,YMIN,XMAX,YMAX", help="or these four")
    add = parser.add_argument_group("for --dataset=folders").add_argument
    add("--patient_from", metavar="REGEX", help="finds the patient in a file's name; or 'unknown'")
    add("--splits", choices=("patient", "folder"), help="split anew (default) or as the folders")


FOLDER_FLAGS = ("name", "positive", "finding", "values", "patients_of", "dry_run")
FOLDER_ONLY = ("patient_from", "splits")
NAMED_FLAGS = ("name", "label", "dry_run")
_SPLITS: dict[str, tuple[str, ...]] = {
    "rsna": ("patient", "image", "row"),
    "pneumonia_mnist": ("official",),
    **dict.fromkeys(NAMED_SETS, ("patient", "official")),
}
TABLE_FLAGS = (
    *FOLDER_FLAGS,
    *("table", "image", "patient", "label", "where", *COLUMNS, "boxes", "corners"),
)


def check_flags(args: argparse.Namespace) -> None:
    """Raises UserError for a flag of another kind of data set, which would do nothing."""
    of_kind = {"table": (*TABLE_FLAGS,), "folders": (*FOLDER_FLAGS, *FOLDER_ONLY)}
    of_kind |= dict.fromkeys(NAMED_SETS, NAMED_FLAGS)
    allowed = set(of_kind.get(args.dataset, ()))
    for flag in (*TABLE_FLAGS, *FOLDER_ONLY):
        if getattr(args, flag) is not None and flag not in allowed:
            name = flag.replace("dry_run", "dry-run")
            raise UserError(f"--{name} does nothing with --dataset={args.dataset}; leave it out")
    splits = _SPLITS.get(args.dataset, ())
    if args.split and splits and args.split not in splits:
        raise UserError(
            f"--split={args.split} is not for --dataset={args.dataset}, which has "
            f"{' and '.join(splits)}"
        )
    if allowed and (args.mapping or (args.split and not splits)):
        flag = "mapping" if args.mapping else "split"
        raise UserError(f"--{flag} is for --dataset=rsna; see --patient and --split_column")
    if len(args.raw) > 1 and args.dataset != "table":
        raise UserError(f"--raw is given {len(args.raw)} times; give it once")


def data_set_name(given: str | None, path: str) -> str:
    """A name that TFDS takes: the given one, or one made from a file's name.

    Raises:
      UserError: TFDS does not take it, or it is that of a data set of this project.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", PurePosixPath(path).stem.casefold())
    name = given or plain.strip("_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in _TAKEN:
        raise UserError(
            f"{name!r} cannot be the name of this data set; give --name with small letters, "
            f"digits and _, and none of {', '.join(_TAKEN)}"
        )
    return name
