"""What a preparation is to do, and that of the data sets with files of their own layout."""

import argparse
import dataclasses
import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from data_prep import rsna
from data_prep.cli import UserError
from data_prep.mapping import find_mapping, read_mapping
from data_prep.radiographs import Preprocessing
from data_prep.records import SPLITS


@dataclasses.dataclass(frozen=True)
class Job:
    """The arguments of `preparation.prepare_once` that belong to a data set.

    Attributes:
      make_builder: data_dir -> a TFDS builder.
      variant: `name/config/version`.
      settings: what the manifest says of the preprocessing and the splits.
      tables: input files whose content makes a difference.
      films: input files that are too many to be read twice.
    """

    make_builder: Callable[..., Any]
    variant: str
    settings: dict[str, Any]
    tables: Sequence[epath.Path]
    films: Sequence[epath.Path]


def preprocessing(args: argparse.Namespace) -> Preprocessing:
    return Preprocessing(args.image_size, args.aspect, args.interpolation, args.voi)


def rsna_job(args: argparse.Namespace) -> Job:
    """The challenge's; what can be checked is checked before TFDS is imported."""
    raw, scheme = epath.Path(args.raw[0]), args.split or "patient"
    if not raw.is_dir():
        raise UserError(f"--raw={raw} is not a folder; give the challenge's unpacked download")
    patients, mapping = None, None
    if args.mapping:
        mapping = epath.Path(find_mapping(args.mapping, args.data_dir))
        patients = read_mapping(mapping)
    elif scheme == "patient":
        raise UserError(
            "--split=patient needs --mapping, because what the challenge calls patientId is an id "
            "of the image; give the official mapping's file or --mapping=download, or choose "
            "--split=image, which leaks"
        )
    records, refused = rsna.plan_records(raw, patients, scheme)
    sizes = Counter(record.split for record in records)
    for split in SPLITS:
        if not sizes[split]:
            strangers = sum(refusal.code == "no_patient" for refusal in refused.values())
            mend = f"; {mapping} names no patient for {strangers} others" if strangers else ""
            raise UserError(
                f"the {split} split would be empty: {len(records)} usable images are too few for "
                f"--split={scheme}{mend}; give more images"
            )
    if scheme != "patient":
        shared = "patients" if scheme == "image" else "patients and even images"
        print(
            f"WARNING: --split={scheme} LEAKS: the same {shared} are in train and in test. "
            "Use it only to measure how much that inflates a result, never as a result.",
            file=sys.stderr,
        )

    from data_prep.record_builder import RecordConfig
    from data_prep.rsna_pneumonia import Builder

    how = preprocessing(args)
    config = RecordConfig.of(how, scheme)
    make_builder = functools.partial(
        Builder,
        config=Builder.builder_configs.get(config.name, config),
        mapping_file=os.fspath(mapping) if mapping else "",
        workers=args.workers,
        use_beam=bool(args.beam_options),
    )
    tables = [raw / rsna.LABELS, raw / rsna.CLASSES, *([mapping] if mapping else [])]
    variant = f"{Builder.name}/{config.name}/{Builder.VERSION}"
    settings = {"split_scheme": scheme, "preprocessing": dataclasses.asdict(how)}
    return Job(make_builder, variant, settings, tables, rsna.list_images(raw))


def pneumonia_mnist_job(args: argparse.Namespace) -> Job:
    """The archive's own splits and size; nothing is resized."""
    from data_prep.pneumonia_mnist.pneumonia_mnist_dataset_builder import Builder, read_archive

    (archive,) = args.raw
    images, _ = read_archive(archive)["train"]
    size = images.shape[1]
    make_builder = functools.partial(Builder, config=f"{size}px", archive=archive)
    variant = f"{Builder.name}/{size}px/{Builder.VERSION}"
    how, tables = Preprocessing(image_size=size), [epath.Path(archive)]
    settings = {"split_scheme": "official", "preprocessing": dataclasses.asdict(how)}
    return Job(make_builder, variant, settings, tables, films=[])
