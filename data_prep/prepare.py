"""Raw radiographs, or a PneumoniaMNIST archive -> TFRecords, with a manifest of every input."""

import argparse
import dataclasses
import functools
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from data_prep import cli
from data_prep.cli import UserError

EXAMPLE = """example:
  python -m data_prep.prepare --dataset=rsna --raw=rsna --mapping=download --data_dir=data
  python -m data_prep.prepare --dataset=pneumonia_mnist --raw=pneumoniamnist.npz --data_dir=data
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.prepare",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", required=True, choices=("rsna", "pneumonia_mnist"))
    add("--raw", required=True, help="the challenge's folder, or the .npz file")
    add("--data_dir", required=True, help="where the TFRecords go")
    add("--mapping", help="the challenge's mapping to patients: its file, or 'download'")
    add("--image_size", type=int, default=256, help="side of the square images (default 256)")
    add(
        "--split",
        choices=("patient", "image", "row"),
        default="patient",
        help="what a split keeps together; image and row leak (default patient)",
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
    args = parser.parse_args()
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
    if args.dataset == "rsna":
        prepare_rsna(args)
    else:
        prepare_pneumonia_mnist(args)


def prepare_rsna(args: argparse.Namespace) -> None:
    """Checks what can be checked before TFDS is imported, then runs the builder."""
    from etils import epath

    from data_prep import rsna
    from data_prep.mapping import find_mapping, read_mapping
    from data_prep.radiographs import Preprocessing

    raw = epath.Path(args.raw)
    if not raw.is_dir():
        raise UserError(f"--raw={raw} is no folder; give the challenge's unpacked download")
    patients, mapping = None, None
    if args.mapping:
        mapping = epath.Path(find_mapping(args.mapping, args.data_dir))
        patients = read_mapping(mapping)
    elif args.split == "patient":
        raise UserError(
            "--split=patient needs --mapping, because what the challenge calls patientId is an id "
            "of the image; give the official mapping's file or --mapping=download, or choose "
            "--split=image, which leaks"
        )
    records, refused = rsna.plan_records(raw, patients, args.split)
    sizes = Counter(record.split for record in records)
    for split in rsna.SPLITS:
        if not sizes[split]:
            strangers = sum(refusal.code == "no_patient" for refusal in refused.values())
            mend = f"; {mapping} names no patient for {strangers} others" if strangers else ""
            raise UserError(
                f"the {split} split would be empty: {len(records)} usable images are too few for "
                f"--split={args.split}{mend}; give more images"
            )
    if args.split != "patient":
        shared = "patients" if args.split == "image" else "patients and even images"
        print(
            f"WARNING: --split={args.split} LEAKS: the same {shared} are in train and in test. "
            "Use it only to measure how much that inflates a result, never as a result.",
            file=sys.stderr,
        )

    from data_prep.rsna_pneumonia import Builder, RsnaConfig

    how = Preprocessing(args.image_size, args.aspect, args.interpolation, args.voi)
    config = RsnaConfig.of(how, args.split)
    make_builder = functools.partial(
        Builder,
        config=Builder.builder_configs.get(config.name, config),
        mapping_file=os.fspath(mapping) if mapping else "",
        workers=args.workers,
        use_beam=bool(args.beam_options),
    )
    tables = [raw / rsna.LABELS, raw / rsna.CLASSES, *([mapping] if mapping else [])]
    variant = f"{Builder.name}/{config.name}/{Builder.VERSION}"
    _run(args, make_builder, variant, how, args.split, tables, rsna.list_images(raw))


def prepare_pneumonia_mnist(args: argparse.Namespace) -> None:
    """The archive's own splits and size; nothing is resized."""
    from etils import epath

    from data_prep.pneumonia_mnist.pneumonia_mnist_dataset_builder import Builder, read_archive
    from data_prep.radiographs import Preprocessing

    images, _ = read_archive(args.raw)["train"]
    size = images.shape[1]
    make_builder = functools.partial(Builder, config=f"{size}px", archive=args.raw)
    variant = f"{Builder.name}/{size}px/{Builder.VERSION}"
    how, tables = Preprocessing(image_size=size), [epath.Path(args.raw)]
    _run(args, make_builder, variant, how, "official", tables, films=[])


def _run(
    args: argparse.Namespace,
    make_builder: Callable[..., Any],
    variant: str,
    how: Any,
    scheme: str,
    tables: list,
    films: list,
) -> None:
    import tensorflow_datasets as tfds

    from data_prep.preparation import prepare_once

    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS warns of every size of its own
    options = {}
    if args.beam_options:
        from data_prep.beam import parse_options

        options["beam_options"] = parse_options(args.beam_options)
    prepare_once(
        make_builder,
        args.data_dir,
        variant,
        settings={"split_scheme": scheme, "preprocessing": dataclasses.asdict(how)},
        tables=tables,
        films=films,
        download_config=tfds.download.DownloadConfig(manual_dir=args.raw, **options),
        max_rejected=args.max_rejected,
        overwrite=args.overwrite,
    )


def command() -> None:
    cli.run(main)


if __name__ == "__main__":
    command()
