"""Radiographs, labelled by a table or by folders -> TFRecords and a manifest."""

import argparse
import logging
import os
from typing import TYPE_CHECKING

from data_prep import cli
from data_prep.tables import options

if TYPE_CHECKING:
    from data_prep.jobs import Job

DATA_SETS = ("rsna", "pneumonia_mnist", "table", "folders", *options.NAMED_SETS)
EXAMPLE = """example:
  python -m data_prep.prepare --dataset=rsna --raw=rsna --mapping=download --data_dir=data
  python -m data_prep.prepare --dataset=pneumonia_mnist --raw=pneumoniamnist.npz --data_dir=data
  python -m data_prep.prepare --dataset=nih --raw=nih --label=Pneumonia --data_dir=data
  python -m data_prep.prepare --dataset=table --raw=images --table=labels.csv --image=file \\
      --patient=patient --label=pneumonia --data_dir=data --dry-run
  python -m data_prep.prepare --dataset=folders --raw=chest_xray --data_dir=data \\
      --patient_from='(person\\d+)|((?:NORMAL2-)?IM-\\d+)'
"""


def parse_args() -> argparse.Namespace:
    parser = cli.parser("data_prep.prepare", __doc__, EXAMPLE)
    add = parser.add_argument
    add("--dataset", required=True, choices=DATA_SETS)
    add("--raw", action="append", required=True, help="the folder of the images, or the .npz file")
    add("--data_dir", help="where the TFRecords go")
    add("--mapping", help="the challenge's mapping to patients: its file, or 'download'")
    add("--image_size", type=int, default=256, help="side of the square images (default 256)")
    add(
        "--split",
        choices=("patient", "image", "row", "official"),
        help="what a split keeps together (default patient); of rsna also image and row, which "
        "leak; official: the public data set's own splits",
    )
    add("--aspect", choices=("letterbox", "squash"), default="letterbox")
    add("--interpolation", choices=("area", "nearest"), default="area")
    add("--voi", choices=("first", "none"), default="first", help="the VOI LUT or window to use")
    add("--workers", type=int, default=cli.cores(), help="decoding processes (default: every core)")
    add(
        "--max_rejected",
        type=float,
        default=0.01,
        help="the share of refused inputs over which this fails (default 0.01)",
    )
    add("--overwrite", action="store_true", help="replace records made from other inputs")
    add(
        "--beam_options",
        help="run on Apache Beam with these options, such as runner=DirectRunner,"
        "direct_num_workers=2,direct_running_mode=multi_processing",
    )
    options.add_options(parser)
    args = parser.parse_args()
    if not args.data_dir and not args.dry_run:
        parser.error("the following arguments are required: --data_dir")
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    if not 28 <= args.image_size <= 4096:
        parser.error("--image_size must be from 28 to 4096")
    if not 0 <= args.max_rejected <= 1:
        parser.error("--max_rejected is a share, from 0 to 1")
    return args


def main() -> None:
    args = parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # only for the notice that it prints
    options.check_flags(args)
    job = _job(args)
    if job is not None:
        _run(job, args)
        print("use it with --config.dataset=" + job.variant.rpartition("/")[0])


def _job(args: argparse.Namespace) -> "Job | None":
    """Imported where they are needed: pandas and TFDS take seconds."""
    if args.dataset == "rsna":
        from data_prep.jobs import rsna_job

        return rsna_job(args)
    if args.dataset == "pneumonia_mnist":
        from data_prep.jobs import pneumonia_mnist_job

        return pneumonia_mnist_job(args)
    from data_prep.tables.job import table_job

    return table_job(args)


def _run(job: "Job", args: argparse.Namespace) -> None:
    import tensorflow_datasets as tfds

    from data_prep.preparation import prepare_once

    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS warns of every size of its own
    more = {}
    if args.beam_options:
        from data_prep.beam import parse_options

        more["beam_options"] = parse_options(args.beam_options)
    prepare_once(
        job.make_builder,
        args.data_dir,
        job.variant,
        settings=job.settings,
        tables=job.tables,
        films=job.films,
        download_config=tfds.download.DownloadConfig(manual_dir=args.raw[0], **more),
        max_rejected=args.max_rejected,
        overwrite=args.overwrite,
    )


def command() -> None:
    cli.run(main)


if __name__ == "__main__":
    command()
