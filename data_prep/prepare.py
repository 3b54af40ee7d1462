"""Raw films or a PneumoniaMNIST archive -> TFRecords, with a manifest of every input."""

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import cli, rsna
from data_prep.cli import UserError

EXAMPLE = """example:
  python -m data_prep.prepare --dataset=rsna --raw=rsna --mapping=download --data_dir=data
  python -m data_prep.prepare --dataset=pneumonia_mnist --raw=pneumoniamnist.npz --data_dir=data
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, choices=("rsna", "pneumonia_mnist"))
    add("--raw", required=True, type=Path, help="the challenge's folder, or the .npz file")
    add("--data_dir", required=True, type=Path, help="where the TFRecords go")
    add(
        "--mapping",
        help="the challenge's mapping to patients: its file, or 'download'; needed by "
        "--split=patient",
    )
    add("--image_size", type=int, default=256, help="side of the square images (default 256)")
    add(
        "--split",
        choices=rsna.SCHEMES,
        default="patient",
        help="what a split keeps together; image and row leak (default patient)",
    )
    add("--aspect", choices=("letterbox", "squash"), default="letterbox")
    add("--interpolation", choices=("area", "nearest"), default="area")
    add("--voi", choices=("first", "none"), default="first", help="the VOI LUT or window used")
    add("--workers", type=int, default=_cores(), help="decoding processes (default: all cores)")
    add(
        "--max_rejected",
        type=float,
        default=0.01,
        help="the share of refused inputs over which this fails (default 0.01)",
    )
    add("--overwrite", action="store_true", help="replace records made from other inputs")
    args = parser.parse_args()
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    if not 28 <= args.image_size <= 4096:
        parser.error("--image_size must be from 28 to 4096")
    if not 0 <= args.max_rejected <= 1:
        parser.error("--max_rejected is a share, from 0 to 1")
    return args


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    args = parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if args.dataset == "rsna":
        _prepare_rsna(args)
    else:
        _prepare_pneumonia_mnist(args)


def _prepare_rsna(args: argparse.Namespace) -> None:
    if not args.raw.is_dir():
        raise UserError(
            f"--raw={args.raw} is no folder; give the unpacked download of the challenge"
        )
    mapping = _find_mapping(args)
    records, _ = rsna.plan_records(args.raw, mapping and rsna.read_mapping(mapping), args.split)
    sizes = Counter(record.split for record in records)
    for split in rsna.SPLITS:
        if not sizes[split]:
            raise UserError(
                f"the {split} split would be empty: {len(records)} usable images are too few for "
                f"--split={args.split}; give more films"
            )
    if args.split != "patient":
        print(
            f"warning: --split={args.split} LEAKS: the same patient"
            f"{' and the same film' if args.split == 'row' else ''} will be in train and in test. "
            "Use it only to measure how much that inflates a result.",
            file=sys.stderr,
        )

    from data_prep.film import Preprocessing
    from data_prep.rsna_pneumonia import Builder, RsnaConfig

    how = Preprocessing(args.image_size, args.aspect, args.interpolation, args.voi)
    config = RsnaConfig.of(how, args.split)
    builder = Builder(
        config=Builder.builder_configs.get(config.name, config),
        data_dir=args.data_dir,
        mapping=str(mapping) if mapping else None,
        workers=args.workers,
    )
    tables = [args.raw / rsna.LABELS, args.raw / rsna.CLASSES, *([mapping] if mapping else [])]
    _prepare(args, builder, how.__dict__, args.split, tables, args.raw / rsna.IMAGES)


def _prepare_pneumonia_mnist(args: argparse.Namespace) -> None:
    from data_prep.film import Preprocessing
    from data_prep.pneumonia_mnist import Builder
    from data_prep.pneumonia_mnist.pneumonia_mnist_dataset_builder import read_archive

    read_archive(args.raw)
    builder = Builder(config="28px", data_dir=args.data_dir, archive=str(args.raw))
    how = Preprocessing(image_size=28)  # nothing was done, and this is what inference shall do
    _prepare(args, builder, how.__dict__, "official", [args.raw], None)


def _find_mapping(args: argparse.Namespace) -> Path | None:
    if args.mapping is None:
        if args.split == "patient":
            raise UserError(
                "--split=patient needs --mapping, because what the challenge calls patientId is an "
                "id of the image: give the official mapping's file or --mapping=download, or "
                "choose a split that leaks with --split=image"
            )
        return None
    path = Path(args.mapping)
    if args.mapping == "download":
        path = args.data_dir / "downloads" / rsna.MAPPING
        if not path.exists():
            _download(rsna.MAPPING_URL, path)
    if not path.is_file():
        raise UserError(f"--mapping={path} is no file; give the mapping's file or 'download'")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != rsna.MAPPING_SHA256:
        print(
            f"warning: {path} is not the official mapping (SHA-256 {found[:12]}..., not "
            f"{rsna.MAPPING_SHA256[:12]}...): who is one patient, and with it the splits, rest on "
            "this file, and may not agree with splits made from the official one.",
            file=sys.stderr,
        )
    return path


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            data = response.read()
    except OSError as error:
        raise UserError(f"cannot download {url} ({error}); get it elsewhere, give --mapping=FILE")
    if hashlib.sha256(data).hexdigest() != rsna.MAPPING_SHA256:
        raise UserError(f"{url} did not give the file with the official SHA-256; try again later")
    draft.write_bytes(data)
    draft.replace(path)


def _prepare(
    args: argparse.Namespace,
    builder: Any,
    preprocessing: dict[str, Any],
    scheme: str,
    tables: list[Path],
    images: Path | None,
) -> None:
    """Runs the builder unless it has been run on these inputs, and writes the manifest last."""
    import tensorflow_datasets as tfds
    from tqdm import tqdm

    from data_prep import manifest

    folder = Path(builder.data_dir)
    settings = {"preprocessing": preprocessing, "split_scheme": scheme}
    entries = list(os.scandir(images)) if images else []
    fingerprint = manifest.fingerprint_inputs(tables, entries, settings)
    with _locked(folder):
        if (folder / "manifest.json").exists():
            done = json.loads((folder / "manifest.json").read_text())
            if done["inputs_sha256"] == fingerprint:
                print(f"{folder} is already prepared from these inputs")
                return
            if not args.overwrite:
                raise UserError(
                    f"{folder} was prepared from other inputs than {args.raw} has now; keep it "
                    "and give another --data_dir, or replace it with --overwrite"
                )
        # What an interrupted run left: records without a manifest, or TFDS's own drafts.
        for leftover in (folder, *folder.parent.glob(f"{folder.name}.incomplete*")):
            shutil.rmtree(leftover, ignore_errors=True)
        tfds.disable_progress_bar()  # the builder shows one per film
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=args.raw)
            )
        counts = manifest.count_outcomes(builder.outcomes)
        if counts["rejected"] > args.max_rejected * counts["inputs"]:
            shutil.rmtree(folder)
            worst = next(row for row in builder.outcomes if row["status"] == "rejected")
            raise UserError(
                f"{counts['rejected']} of {counts['inputs']} inputs were refused "
                f"({counts['by_code']}; {worst['file']}: {worst['message']}), more than "
                f"--max_rejected={args.max_rejected}; mend the download or allow more"
            )
        splits = {
            split: manifest.summarise_split(
                tqdm(
                    tfds.as_numpy(builder.as_dataset(split=split)),
                    f"hashing {split}",
                    info.num_examples,
                    unit="image",
                )
            )
            for split, info in builder.info.splits.items()
        }
        manifest.write_manifest(
            folder,
            {
                "schema": manifest.SCHEMA,
                "dataset": str(builder.info.full_name),
                **settings,
                "inputs_sha256": fingerprint,
                "counts": counts,
                "splits": splits,
                "files": sorted(
                    builder.outcomes, key=lambda row: (row["file"], row.get("image_id", ""))
                ),
            },
        )
    print(f"{folder}: {counts['accepted']} accepted, {counts['rejected']} rejected")
    for split, summary in splits.items():
        print(
            f"  {split}: {summary['images']} images, {summary['positive']} positive, "
            f"{summary['patients']} patients, content {summary['content_sha256'][:16]}"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One preparation of a folder at a time; the lock goes with the process that holds it."""
    import fcntl

    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another process is preparing {folder}; wait for it or end it"
            ) from None
        yield


if __name__ == "__main__":
    cli.run(main)
