"""What leaks between splits, and what the confounders alone predict, before any training."""

import argparse
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from data_prep import cli
from data_prep.files import folders
from data_prep.files.regular_files import NotAFileError, TooLargeError, read_bytes
from data_prep.tables import options

EXAMPLE = """example:
  python -m data_prep.audit --raw=rsna --mapping=download --out=audit.json
  python -m data_prep.audit --raw=rsna --mapping=download --out=audit.json --splits=published.csv
  python -m data_prep.audit --dataset=table --help
  python -m data_prep.audit --dataset=folders --help

The folder of images may be missing; then near-duplicates are not looked for, and view, sex, age
and pixel spacing come from --metadata alone: a CSV file with the columns patientId, ViewPosition,
PatientSex, PatientAge and PixelSpacing. --splits tests a split that somebody published: how many
images of each other split share a patient, or are themselves, in its train."""
DATA_SETS = ("rsna", "table", "folders", *options.NAMED_SETS)
_MAX_RESULT_BYTES = 1 << 26
TABLE_EXAMPLE = """example:
  python -m data_prep.audit --dataset=table --raw=images --table=labels.csv --image=file \\
      --patient=patient --label=pneumonia --out=audit.json
  python -m data_prep.audit --dataset=folders --raw=chest_xray --patient_from='person\\d+' \\
      --out=audit.json

The options are those with which data_prep.prepare makes the data set."""


def parse_args() -> argparse.Namespace:
    which = cli.parser("data_prep.audit", None, "", add_help=False, allow_abbrev=False)
    which.add_argument("--dataset", choices=DATA_SETS, default="rsna")
    dataset = which.parse_known_args()[0].dataset
    parser = _rsna_parser() if dataset == "rsna" else _table_parser()
    parser.add_argument("--dataset", choices=DATA_SETS, default="rsna", help="default: rsna")
    add = parser.add_argument
    add("--out", required=True, type=Path, help="the JSON file to write")
    add("--workers", type=int, default=os.cpu_count() or 1, help="decoding processes")
    add("--draws", type=int, default=100, help="random splits, and bootstraps (default 100)")
    args = parser.parse_args()
    if args.workers < 1 or args.draws < 2:
        parser.error("--workers must be at least 1 and --draws at least 2")
    return args


def _table_parser() -> argparse.ArgumentParser:
    parser = cli.parser("data_prep.audit", __doc__, TABLE_EXAMPLE)
    parser.add_argument("--raw", action="append", required=True, help="the folder of the images")
    parser.add_argument("--split", choices=("patient", "official"), help="as for prepare")
    parser.set_defaults(mapping=None)  # a flag of prepare's for another data set
    options.add_options(parser)
    return parser


def _rsna_parser() -> argparse.ArgumentParser:
    parser = cli.parser("data_prep.audit", __doc__, EXAMPLE)
    add = parser.add_argument
    add("--raw", required=True, help="the challenge's folder")
    add("--mapping", required=True, help="the mapping to patients: its file, or 'download'")
    add("--metadata", help="a CSV file of header values, used instead of the images' own")
    add("--splits", help="a published split: a CSV file with the columns image_id and split")
    return parser


def check_out(path: Path) -> None:
    """Before any work: nothing is at this path, or what an earlier audit wrote, unchanged.

    Raises:
      UserError: something else is there, which is not to be replaced, or nothing can be.
      OSError: the path cannot be looked at.
    """
    folders.check_place(path.parent)
    if not os.path.lexists(path):
        return
    try:
        earlier = None if path.is_symlink() else json.loads(read_bytes(path, _MAX_RESULT_BYTES))
    except (NotADirectoryError, NotAFileError, TooLargeError, ValueError, RecursionError):
        earlier = None
    if not isinstance(earlier, dict) or earlier.pop("sha256", None) != _sha256(earlier):
        raise cli.UserError(
            f"--out={path} is no audit's result, or was changed since; give the name of a new file"
        )


def main() -> None:
    args = parse_args()
    check_out(args.out)
    result, text = audit_rsna(args) if args.dataset == "rsna" else audit_tables(args)
    with cli.naming(args.out):
        write(args.out, result)
    print(text)


def audit_tables(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The figures of the data set that these options plan, and how they are shown."""
    from data_prep.audit import run_planned
    from data_prep.audit.planned import look_at_plan
    from data_prep.tables.job import sources_and_plan
    from data_prep.tables.summary import print_warnings

    options.check_flags(args)
    if args.dry_run:
        raise cli.UserError("--dry-run is for data_prep.prepare only; leave it out")
    sources, plan, _ = sources_and_plan(args)
    print_warnings(plan, sources)
    planned = look_at_plan(plan, sources, args.workers)
    result = run_planned.audit_plan(planned, args.draws)
    return result, run_planned.render(result)


def audit_rsna(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The figures of the challenge's folder, and how they are shown."""
    from etils import epath

    from data_prep import rsna
    from data_prep.audit import run
    from data_prep.audit.inputs import look_at_images, read_metadata, read_splits, read_table
    from data_prep.mapping import find_mapping, read_mapping

    args.out.parent.mkdir(parents=True, exist_ok=True)
    raw = epath.Path(args.raw)
    mapping = find_mapping(args.mapping, os.fspath(args.out.parent))
    table = read_table(raw, read_mapping(mapping))
    metadata = read_metadata(epath.Path(args.metadata), table.ids) if args.metadata else None
    published = read_splits(epath.Path(args.splits), table.ids) if args.splits else None
    duplicates = None
    if (raw / rsna.IMAGES).exists():
        headers, duplicates = look_at_images(raw, table.ids, args.workers)
        metadata = metadata or headers
    result = run.audit(table, metadata, duplicates, args.draws, published)
    return result, run.render(result)


def write(out: Path, result: dict[str, Any]) -> None:
    """Writes the figures with a hash of them, by which a later call knows the file as its own."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".audit-") as scratch:
        draft = Path(scratch) / out.name
        draft.write_text(json.dumps(result | {"sha256": _sha256(result)}, indent=1) + "\n")
        check_out(out)  # again, as the figures took a while
        draft.replace(out)


def _sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def command() -> None:
    cli.run(main)


if __name__ == "__main__":
    command()
