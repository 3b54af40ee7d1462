"""python -m data_prep.synthetic: synthetic chest radiographs, stored like the RSNA challenge."""

import os
import pathlib

from data_prep import cli


def main() -> None:
    parser = cli.parser(
        "data_prep.synthetic",
        "Writes synthetic chest radiographs as DICOM, stored like the RSNA challenge.",
        "example:\n  python -m data_prep.synthetic --out=data/synthetic --images=600",
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a new folder")
    parser.add_argument("--images", type=int, default=600, help="how many images (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other patients")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    args = parser.parse_args()
    from data_prep.synthetic.folder import write

    write(args.out, args.images, args.seed, args.workers)


if __name__ == "__main__":
    cli.run(main)
