"""Runs a builder once: whole or not at all, one process at a time, and not again when done.

TFDS writes into a draft beside the records that it may replace, so these stay until the new ones
are whole, hashed and have their manifest:

    DATA_DIR/<name>/<config>/.prepare-XXXXXXXX/prepare.json                the mark: a draft of ours
                                              /<name>/<config>/<version>/  the new records
                                              /replaced/                   the old ones, at the end
                            /<version>/
"""

import contextlib
import io
import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from data_prep import manifest
from data_prep.cli import UserError, progress
from data_prep.files import locks

MARK = "prepare.json"
# What may lie among records: files of TFDS, of `prepare`, and the images that training decoded.
OWN = re.compile(
    r"\w+-\w+\.tfrecord-\d+-of-\d+|\w+\.labels\.txt|(dataset_info|features)\.json|LICENSE"
    r"|manifest\.json(\.tmp)?|rejected\.csv|\.?decoded-v\d+.*"
)


def prepare_once(
    make_builder: Callable[..., Any],
    data_dir: str | os.PathLike[str],
    variant: str,
    *,
    settings: dict[str, Any],
    tables: Sequence[epath.Path],
    films: Sequence[epath.Path],
    download_config: tfds.download.DownloadConfig,
    max_rejected: float,
    overwrite: bool,
) -> None:
    """Writes the records with their manifest, unless a manifest says that it was done.

    Args:
      make_builder: data_dir -> a TFDS builder with `outcomes`, one line per input for the manifest.
      data_dir: where the data sets are.
      variant: the builder's `name/config/version`.
      settings: what the manifest says of the preprocessing and the splits.
      tables: input files whose content makes a difference.
      films: input files that are too many to be read twice.
      download_config: TFDS's, with manual_dir and Beam's options.
      max_rejected: the share of inputs over which the preparation fails.
      overwrite: whether to replace records that were made from other inputs.

    Raises:
      UserError: too many inputs refused, an empty split, records of other inputs in the place,
        foreign files among them, or another process preparing the same.
    """
    folder = epath.Path(data_dir).expanduser() / variant
    fingerprint = manifest.fingerprint_inputs(tables, films, settings)
    if _prepared_from(folder) == fingerprint:  # needs no place that can be written
        print(f"{folder} is already prepared from these inputs")
        return
    with locks.hold(folder.parent / ".prepare.lock", "prepared"):
        for leftover in folder.parent.glob(".prepare-*"):
            _discard(leftover, folder.parent)
        if _prepared_from(folder) == fingerprint:
            print(f"{folder} is already prepared from these inputs")
            return
        _check_replaceable(folder, overwrite)
        with _draft(folder) as draft:
            builder = make_builder(data_dir=os.fspath(draft))
            _run(builder, download_config, max_rejected)
            splits = _summarise(builder)
            counts = manifest.count_outcomes(builder.outcomes)
            manifest.write_manifest(
                draft / variant,
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
            _check_replaceable(folder, overwrite)  # again, because hours may have passed
            _publish(draft, variant, folder)
    print(f"{folder}: {counts['accepted']:,} radiographs accepted, {counts['rejected']:,} refused")
    for code, count in counts["by_code"].items():
        print(f"  {count} {code}")
    for flag, count in counts["flagged"].items():
        print(f"  {count} accepted with the flag {flag}; manifest.json has their names")
    for split, summary in splits.items():
        patients = f"{summary['patients']:,}" if summary["patients"] else "unknown"
        print(
            f"  {split:10}  {summary['images']:,} images of {patients} patients, "
            f"{summary['positive']:,} positive; content hash {summary['content_sha256'][:12]}"
        )


def _prepared_from(folder: epath.Path) -> str | None:
    """The fingerprint of the inputs in the manifest; None without a manifest that can be read."""
    try:
        return json.loads((folder / "manifest.json").read_text())["inputs_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_replaceable(folder: epath.Path, overwrite: bool) -> None:
    """Refuses a folder with records, but with `overwrite`; one with files of others always."""
    if not folder.exists():
        return
    names = sorted(path.name for path in folder.iterdir())
    if foreign := [name for name in names if not OWN.fullmatch(name)]:
        raise UserError(
            f"{folder} holds {', '.join(foreign[:3])}, which prepare did not write and will not "
            "delete; move that away, or give another --data_dir"
        )
    if names and not overwrite:
        what = "was prepared from inputs that have changed since"
        if _prepared_from(folder) is None:
            what = "holds records without a whole manifest, perhaps written by tfds.load"
        raise UserError(
            f"{folder} {what}; give another --data_dir to keep it, or --overwrite to replace it"
        )


@contextlib.contextmanager
def _draft(folder: epath.Path) -> Iterator[epath.Path]:
    draft = folder.parent / f".prepare-{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    try:
        (draft / MARK).write_text(json.dumps({"version": folder.name}))
        yield draft
    finally:
        _discard(draft, folder.parent)


def _discard(draft: epath.Path, parent: epath.Path) -> None:
    """Removes a draft; first puts back the old records, if it ended between the two renames."""
    try:
        folder = parent / json.loads((draft / MARK).read_text())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        with contextlib.suppress(OSError):  # not ours unless empty: killed before the mark
            os.rmdir(draft)
        return
    if (draft / "replaced").exists() and not folder.exists():
        (draft / "replaced").rename(folder)
    draft.rmtree(missing_ok=True)


def _is_remote(folder: epath.Path) -> bool:
    return "://" in os.fspath(folder)


def _publish(draft: epath.Path, variant: str, folder: epath.Path) -> None:
    """Puts the new records in the place of the old ones.

    A disk takes two renames for it, and what kill -9 leaves between them the next run puts right.
    On gs:// a rename copies file after file: there the manifest goes first and comes last, so that
    nobody takes a half for the whole, but after kill -9 in these seconds neither is there.
    """
    new, common = draft / variant, folder.parents[1] / ".config"
    if not common.exists():  # the name of TFDS's default config, for all variants
        with contextlib.suppress(OSError):  # another variant's preparation was faster
            (draft / folder.parents[1].name / ".config").rename(common)
    if _is_remote(folder):
        (folder / "manifest.json").unlink(missing_ok=True)
        (new / "manifest.json").rename(draft / "manifest")
        folder.rmtree(missing_ok=True)
        new.rename(folder)
        (draft / "manifest").rename(folder / "manifest.json")
    else:
        if folder.exists():
            folder.rename(draft / "replaced")
        new.rename(folder)


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
