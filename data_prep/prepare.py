"""Radiographs, with a table or folders that say what they show -> TFRecords and a manifest."""

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
from data_prep.tables import options

EXAMPLE = """example:
  python -m data_prep.prepare --dataset=rsna --raw=rsna --mapping=download --data_dir=data
  python -m data_prep.prepare --dataset=pneumonia_mnist --raw=pneumoniamnist.npz --data_dir=data
  python -m data_prep.prepare --dataset=table --raw=images --table=labels.csv --image=file \\
      --patient=patient --label=pneumonia --data_dir=data --dry-run
  python -m data_prep.prepare --dataset=folders --raw=chest_xray --data_dir=data \\
      --patient_from='(person\\d+)|((?:NORMAL2-)?IM-\\d+)'
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.prepare",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", required=True, choices=("rsna", "pneumonia_mnist", "table", "folders"))
    add("--raw", action="append", required=True, help="the folder of the images, or the .npz file")
    add("--data_dir", help="where the TFRecords go")
    add("--mapping", help="the challenge's mapping to patients: its file, or 'download'")
    add("--image_size", type=int, default=256, help="side of the square images (default 256)")
    add(
        "--split",
        choices=("patient", "image", "row"),
        help="rsna: what a split keeps together; image and row leak (default patient)",
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
    if args.dataset in ("table", "folders"):
        prepare_tables(args)
        return
    if len(args.raw) > 1:
        raise UserError("--raw is given several times; give it once")
    (args.raw,) = args.raw
    args.split = args.split or "patient"
    if args.dataset == "rsna":
        prepare_rsna(args)
    else:
        prepare_pneumonia_mnist(args)


def prepare_tables(args: argparse.Namespace) -> None:
    """Plans the records from tables or folders, says so, and makes them unless it is a dry run."""
    from etils import epath

    from data_prep.radiographs import Preprocessing
    from data_prep.tables import sources as sources_of
    from data_prep.tables import summary
    from data_prep.tables.plan import check_splits

    sources, plan = sources_of.sources_and_plan(args)
    raws = args.raw * (len(sources) if len(args.raw) == 1 else 1)
    files = [sources_of.find_table(*pair) for pair in zip(args.table or (), raws, strict=False)]
    summary.print_summary(plan, sources, samples=bool(args.dry_run))
    summary.print_warnings(plan, sources)
    check_splits(plan)
    if args.dry_run:
        print("nothing was written (--dry-run)")
        return

    from data_prep.record_builder import RecordConfig
    from data_prep.tables.builder import TableBuilder

    how = Preprocessing(args.image_size, args.aspect, args.interpolation, args.voi)
    config = RecordConfig.of(how, plan.scheme)
    name = options.data_set_name(args.name, args.table[0] if args.table else args.raw[0])
    make_builder = functools.partial(
        TableBuilder,
        name=name,
        plan=plan,
        config=config,
        workers=args.workers,
        use_beam=bool(args.beam_options),
    )
    settings = {
        "split_scheme": plan.scheme,
        "preprocessing": dataclasses.asdict(how),
        "findings": list(plan.findings),
        "patients_of": sorted({source.namespace for source in sources if plan.scheme != "image"}),
        "patients_in_two_splits": len(plan.patients_in_two_splits),
        "sources": [source.described() for source in sources],
        "plan_sha256": plan.sha256,
    }
    films = [epath.Path(record.path) for record in plan.records]
    variant = f"{name}/{config.name}/{TableBuilder.VERSION}"
    _run(args, make_builder, variant, settings, files, films)
    print(f"train on it with --config.dataset={name}/{config.name}")


def prepare_rsna(args: argparse.Namespace) -> None:
    """Checks what can be checked before TFDS is imported, then runs the builder."""
    from etils import epath

    from data_prep import rsna
    from data_prep.mapping import find_mapping, read_mapping
    from data_prep.radiographs import Preprocessing
    from data_prep.records import SPLITS

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
    for split in SPLITS:
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
    settings = {"split_scheme": args.split, "preprocessing": dataclasses.asdict(how)}
    _run(args, make_builder, variant, settings, tables, rsna.list_images(raw))


def prepare_pneumonia_mnist(args: argparse.Namespace) -> None:
    """The archive's own splits; nothing is resized."""
    from etils import epath

    from data_prep.pneumonia_mnist.pneumonia_mnist_dataset_builder import Builder, read_archive
    from data_prep.radiographs import Preprocessing

    read_archive(args.raw)
    make_builder = functools.partial(Builder, config="28px", archive=args.raw)
    variant = f"{Builder.name}/28px/{Builder.VERSION}"
    how, tables = Preprocessing(image_size=28), [epath.Path(args.raw)]
    settings = {"split_scheme": "official", "preprocessing": dataclasses.asdict(how)}
    _run(args, make_builder, variant, settings, tables, films=[])


def _run(
    args: argparse.Namespace,
    make_builder: Callable[..., Any],
    variant: str,
    settings: dict[str, Any],
    tables: list,
    films: list,
) -> None:
    import tensorflow_datasets as tfds

    from data_prep.preparation import prepare_once

    manual_dir = None if isinstance(args.raw, list) else args.raw
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS warns of every size of its own
    more = {}
    if args.beam_options:
        from data_prep.beam import parse_options

        more["beam_options"] = parse_options(args.beam_options)
    prepare_once(
        make_builder,
        args.data_dir,
        variant,
        settings=settings,
        tables=tables,
        films=films,
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, **more),
        max_rejected=args.max_rejected,
        overwrite=args.overwrite,
    )


def command() -> None:
    cli.run(main)


if __name__ == "__main__":
    command()
