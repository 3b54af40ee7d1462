"""The RSNA challenge's tables as one table, so that its images can be one source of several."""

import os
import pathlib

from etils import epath

from data_prep import cli, rsna
from data_prep.cli import UserError
from data_prep.dicom import DicomRefusal
from data_prep.files import csv_files
from data_prep.mapping import find_mapping, read_mapping

COLUMNS = ("image", "patient", "target", "class", "x", "y", "width", "height")
EXAMPLE = """example:
  python -m data_prep.tables.rsna_table --raw=rsna --mapping=download --out=rsna.csv
  python -m data_prep.prepare --dataset=table --raw=rsna/stage_2_train_images --table=rsna.csv \\
      --image=image --patient=patient --label=target --boxes=x,y,width,height ...
"""


def rows_of(raw: epath.Path, patients: dict[str, str]) -> tuple[list[tuple], int]:
    """A row for each box, or for each image without one; and how many images have no usable row.

    Raises:
      UserError: a table is missing, or no image has a row.
    """
    rows: list[tuple] = []
    left_out = 0
    for image_id, found in sorted(rsna.read_labels(raw).items()):
        patient = patients.get(image_id)
        if isinstance(found, DicomRefusal) or not patient:
            left_out += 1
            continue
        image = (f"{image_id}.dcm", patient, found.target, found.detailed_class)
        boxes = [(x, y, xmax - x, ymax - y) for y, x, ymax, xmax in found.boxes]
        rows += [(*image, *box) for box in boxes] or [(*image, "", "", "", "")]
    if not rows:
        raise UserError(f"the mapping names no patient for any image of {raw}; give its mapping")
    return rows, left_out


def main() -> None:
    parser = cli.parser("data_prep.tables.rsna_table", __doc__, EXAMPLE)
    parser.add_argument("--raw", required=True, help="the challenge's unpacked download")
    parser.add_argument("--mapping", required=True, help="its mapping's file, or 'download'")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the CSV file to write")
    args = parser.parse_args()
    if args.out.exists():
        raise UserError(f"--out={args.out} exists already; give the name of a new file")
    patients = read_mapping(find_mapping(args.mapping, os.fspath(args.out.parent)))
    rows, left_out = rows_of(epath.Path(args.raw), patients)
    csv_files.write(args.out, COLUMNS, rows)
    images = len({row[0] for row in rows})
    print(f"{args.out}: {len(rows):,} rows of {images:,} images; {left_out:,} images left out")


if __name__ == "__main__":
    cli.run(main)
