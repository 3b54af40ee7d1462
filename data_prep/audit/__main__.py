"""What leaks between splits, and what the confounders alone predict, before any training."""

import argparse
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from data_prep import cli, folders
from data_prep.text_files import read_json

EXAMPLE = """example:
  python -m data_prep.audit --raw=rsna --mapping=download --out=audit.json

The folder of images may be missing; then near-duplicates are not looked for, and view, sex, age
and pixel spacing come from --metadata alone: a CSV file with the columns patientId, ViewPosition,
PatientSex, PatientAge and PixelSpacing."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.audit",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--raw", required=True, help="the challenge's folder")
    add("--mapping", required=True, help="the mapping to patients: its file, or 'download'")
    add("--metadata", help="a CSV file of header values, used instead of the images' own")
    add("--out", required=True, type=Path, help="the JSON file to write")
    add("--workers", type=int, default=os.cpu_count() or 1, help="decoding processes")
    add("--draws", type=int, default=100, help="random splits, and bootstraps (default 100)")
    args = parser.parse_args()
    if args.workers < 1 or args.draws < 2:
        parser.error("--workers must be at least 1 and --draws at least 2")
    return args


def main() -> None:
    args = parse_args()
    check_out(args.out)
    from etils import epath

    from data_prep import rsna
    from data_prep.audit import run
    from data_prep.audit.inputs import look_at_images, read_metadata, read_table
    from data_prep.mapping import find_mapping, read_mapping

    raw = epath.Path(args.raw)
    mapping = find_mapping(args.mapping, os.fspath(args.out.parent))
    table = read_table(raw, read_mapping(mapping))
    metadata = read_metadata(epath.Path(args.metadata), table.ids) if args.metadata else None
    duplicates = None
    if (raw / rsna.IMAGES).exists():
        headers, duplicates = look_at_images(raw, table.ids, args.workers)
        metadata = metadata or headers
    result = run.audit(table, metadata, duplicates, args.draws)
    write(args.out, result)
    print(run.render(result))


def check_out(out: Path) -> None:
    """Refuses an `out` that cannot be written or that this command cannot prove to have written.

    Raises:
      UserError: it is such a file.
    """
    folders.check_place(out.parent)
    if os.path.lexists(out):
        mend = "give --out a new file"
        if out.is_symlink() or not out.is_file():
            raise cli.UserError(f"{out} is no plain file; {mend}")
        content = read_json(out, mend)
        if content.pop("sha256", None) != _sha256(content):
            raise cli.UserError(
                f"{out} was not written by this command, or was changed since; {mend}"
            )


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


if __name__ == "__main__":
    cli.run(main)
