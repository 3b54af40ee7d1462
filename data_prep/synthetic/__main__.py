"""python -m data_prep.synthetic: synthetic chest radiographs, stored like the RSNA challenge."""

import argparse
import os
import pathlib

from data_prep.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.synthetic",
        description="Writes synthetic chest radiographs as DICOM, stored like the RSNA challenge.",
        epilog="example:\n  python -m data_prep.synthetic --out=data/synthetic --images=600",
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    run(main)
