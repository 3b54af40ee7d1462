"""Runs a builder once: whole or not at all, one process at a time, and not again when done."""

import contextlib
import fcntl
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from data_prep import manifest
from data_prep.cli import UserError, progress


def prepare_once(
    builder: Any,
    *,
    settings: dict[str, Any],
    tables: Sequence[epath.Path],
    films: Sequence[epath.Path],
    download_config: tfds.download.DownloadConfig,
    max_rejected: float,
    overwrite: bool,
) -> None:
    """Writes the records, then the manifest, unless a manifest says that it was done.

    Args:
      builder: a TFDS builder with `outcomes`, one line per input for the manifest.
      settings: what the manifest says of the preprocessing and the splits.
      tables: input files whose content makes a difference.
      films: input files that are too many to be read twice.
      download_config: TFDS's, with manual_dir and Beam's options.
      max_rejected: the share of inputs over which the preparation fails.
      overwrite: whether to replace records that were made from other inputs.

    Raises:
      UserError: too many inputs refused, an empty split, records of other inputs in the place, or
        another process preparing the same.
    """
    folder = epath.Path(builder.data_dir)
    fingerprint = manifest.fingerprint_inputs(tables, films, settings)
    with _claimed(folder):
        done = _read_manifest(folder)
        if done and done["inputs_sha256"] == fingerprint:
            print(f"{folder} is already prepared from these inputs")
            return
        if done and not overwrite:
            raise UserError(
                f"{folder} was prepared from inputs that have changed since; give another "
                "--data_dir to keep it, or --overwrite to replace it"
            )
        # What an interrupted run left: records without a manifest, and drafts.
        for leftover in (folder, *_drafts(folder)):
            leftover.rmtree(missing_ok=True)
        try:
            _run(builder, download_config, max_rejected)
            splits = _summarise(builder)
            counts = manifest.count_outcomes(builder.outcomes)
            manifest.write_manifest(
                folder,
                {
                    "schema": manifest.SCHEMA,
                    "dataset": builder.info.full_name,
                    **settings,
                    "inputs_sha256": fingerprint,
                    "counts": counts,
                    "splits": splits,
                    "files": sorted(
                        builder.outcomes, key=lambda line: (line["file"], line.get("image_id", ""))
                    ),
                },
            )
        except BaseException:
            folder.rmtree(missing_ok=True)
            raise
        finally:
            for draft in _drafts(folder):
                draft.rmtree(missing_ok=True)
    print(f"{folder}: {counts['accepted']:,} radiographs accepted, {counts['rejected']:,} refused")
    for code, count in counts["by_code"].items():
        print(f"  {count} {code}")
    for flag, count in counts["flagged"].items():
        print(f"  {count} accepted with the flag {flag}; manifest.json has their names")
    for split, summary in splits.items():
        print(
            f"  {split:10}  {summary['images']:,} images of {summary['patients']:,} patients, "
            f"{summary['positive']:,} positive; content hash {summary['content_sha256'][:12]}"
        )


def _drafts(folder: epath.Path) -> list[epath.Path]:
    """What only a preparation that is still running, or was killed, has beside `folder`."""
    tfds_drafts = folder.parent.glob(f"incomplete.*_{folder.name}")
    return [*tfds_drafts, manifest.outcomes_dir(folder)]


def _run(builder: Any, config: tfds.download.DownloadConfig, max_rejected: float) -> None:
    tfds.disable_progress_bar()  # the builder shows one per film
    try:
        # TFDS makes a folder for downloads even when there are none.
        with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=unused, download_config=config)
        is_empty = False
    except AssertionError:  # how TFDS says that a split has no record
        is_empty = True
    builder.outcomes += manifest.read_outcomes(epath.Path(builder.data_dir))
    counts = manifest.count_outcomes(builder.outcomes)
    if is_empty or counts["rejected"] > max_rejected * counts["inputs"]:
        first = next((line for line in builder.outcomes if line["status"] == "rejected"), None)
        example = f"; the first is {first['file']}: {first['message']}" if first else ""
        raise UserError(
            f"{counts['rejected']} of {counts['inputs']} inputs were refused, "
            f"{'which leaves a split empty' if is_empty else 'more than --max_rejected allows'} "
            f"({counts['by_code']}{example}); mend the inputs or allow more with --max_rejected"
        )


def _summarise(builder: Any) -> dict[str, Any]:
    """Reads the records back from the disk: what is hashed is what training will see."""
    return {
        split: manifest.summarise_split(
            progress(
                tfds.as_numpy(builder.as_dataset(split=split)),
                f"hashing {split}",
                info.num_examples,
            )
        )
        for split, info in builder.info.splits.items()
    }


def _read_manifest(folder: epath.Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _claimed(folder: epath.Path) -> Iterator[None]:
    """One preparation of a folder at a time. The lock goes with the process that holds it."""
    if "://" in os.fspath(folder):  # an object store has no locks
        yield
        return
    variant = folder.parent
    variant.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(variant, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"another process is preparing {variant}; wait for its end") from None
    finally:
        os.close(descriptor)
        if not os.listdir(variant):  # nothing half-made stays after an error
            variant.rmdir()
            dataset = variant.parent
            if os.listdir(dataset) in ([], [".config"]):  # the second is TFDS's
                dataset.rmtree()
