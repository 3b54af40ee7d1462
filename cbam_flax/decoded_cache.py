"""The decoded images of a split on disk, checked against its manifest whenever they are opened.

A cache folder holds `images.npy`, `columns.npz` and `check.json`: the hashes of these two files,
what the manifest said of the split, and the sizes and times of its TFRecords. Where any of them no
longer holds, the TFRecords are decoded again; their content must then have the manifest's hash.
Images of another size than the records' have a folder of their own.
"""

import errno
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from data_prep.cli import UserError, cores, naming, progress
from data_prep.files.text_files import read_json
from data_prep.manifest import SPLIT_SUMMARY, summarise_split
from data_prep.resize import shrink

FORMAT = 1
FILES = ("images.npy", "columns.npz")
BLOCK = 2**24  # bytes that one thread hashes at a time
TEXT_COLUMNS = ("image_id", "patient_id", "view", "sex")
NUMBER_COLUMNS = ("age", "spacing")


def decoded(records: Any, split: str, manifest: dict[str, Any], image_size: int) -> pathlib.Path:
    """The cache folder of a split, decoded now where there is none that can be trusted.

    Args:
        records: the folder of the TFRecords, an epath.Path.
        manifest: what `data_prep.manifest.read_manifest` gives for it.
        image_size: side of the images in the cache; those of the records are shrunk to it.

    Raises:
        UserError: a broken record, or records that are not those of the manifest.
    """
    summary = {key: manifest["splits"][split][key] for key in SPLIT_SUMMARY}
    name, held = f"{split}-{summary['content_sha256'][:16]}", summary
    if image_size != manifest["preprocessing"]["image_size"]:
        name, held = f"{name}-{image_size}px", summary | {"image_size": image_size}
    cache = _folder(records, name)
    if cache.exists():
        if not (doubt := _doubt(cache, records, split, held)):
            return cache
        if jax.process_index() == 0:
            print(f"warning: {doubt}; decoding {split} again", file=sys.stderr)
    cache.parent.mkdir(parents=True, exist_ok=True)
    draft = pathlib.Path(tempfile.mkdtemp(prefix=f".{cache.name}-", dir=cache.parent))
    try:
        stamps = _stamps(records, split)  # first, so that a change while reading is noticed
        decoded_now = _decode(draft, records, split, image_size)
        found = {key: decoded_now[key] for key in SPLIT_SUMMARY}
        if found != summary:
            differing = [f"{key} {summary[key]} -> {found[key]}" for key in found]
            raise UserError(
                f"the TFRecords of the {split} split in {records} are not those that manifest.json "
                f"there describes ({', '.join(differing)}); put back the right ones, or delete "
                f"this folder and run data_prep.prepare again"
            )
        check = {"split": held, "records": stamps, "files": _hashes(draft)}
        (draft / "check.json").write_text(json.dumps(check, indent=1) + "\n")
        _put_in_place(draft, cache, lambda: not _doubt(cache, records, split, held))
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return cache


def _folder(records: Any, name: str) -> pathlib.Path:
    """Beside the TFRecords if that is local and writable, else in the user's own cache folder."""
    if os.access(records, os.W_OK):
        return pathlib.Path(records) / f"decoded-v{FORMAT}" / name
    key = hashlib.sha256(str(records).encode()).hexdigest()[:16]
    own = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return own / "cbam_flax" / f"decoded-v{FORMAT}" / key / name


def _doubt(cache: pathlib.Path, records: Any, split: str, held: dict[str, Any]) -> str | None:
    """Why the cache cannot be trusted to hold the images that `held` describes; None if it can."""
    try:
        check = read_json(cache / "check.json", "it is an older version's, or damaged")
        if check.get("split") != held:
            return f"manifest.json in {records} has changed since {split} was decoded"
        if check.get("records") != _stamps(records, split):
            return f"the TFRecords in {records} have changed since {split} was decoded"
        if check.get("files") != _hashes(cache):
            return f"{cache} has changed since it was written"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except UserError as error:
        return str(error)
    return None


def _stamps(records: Any, split: str) -> list[list[Any]]:
    """Name, size and time of change of each TFRecord file of the split."""
    stamps = []
    for path in sorted(records.glob(f"*-{split}.tfrecord*")):
        if "://" in os.fspath(path):
            stat = path.stat()
            stamps.append([path.name, stat.length, stat.mtime])
        else:
            local = os.stat(path)  # to the nanosecond, where epath has seconds
            stamps.append([path.name, local.st_size, local.st_mtime_ns])
    return stamps


def _hashes(folder: pathlib.Path) -> dict[str, str]:
    """By file, the SHA-256 over the SHA-256 of its blocks, which threads share."""

    def of_block(path: pathlib.Path, start: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(BLOCK)).digest()

    hashes = {}
    with ThreadPoolExecutor(cores()) as pool:
        for name in FILES:
            path = folder / name
            starts = range(0, path.stat().st_size, BLOCK)
            digests = pool.map(of_block, itertools.repeat(path), starts)
            hashes[name] = hashlib.sha256(b"".join(digests)).hexdigest()
    return hashes


def _put_in_place(draft: pathlib.Path, cache: pathlib.Path, is_sound: Callable[[], bool]) -> None:
    """Renames the draft to `cache`, in place of what is there, unless that has become sound.

    Several processes can do this at once: a reader meets the old folder, a whole new one or none.
    """
    old = pathlib.Path(tempfile.mkdtemp(prefix=f".{cache.name}-", dir=cache.parent))
    try:
        if cache.exists():
            if is_sound():
                return
            cache.rename(old)
        draft.rename(cache)
    except OSError:
        if not cache.exists() or not is_sound():  # else another process was faster
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _decode(folder: pathlib.Path, records: Any, split: str, image_size: int) -> dict[str, Any]:
    """Writes `FILES` into `folder`, the images shrunk; returns the summary of the records."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(records)
    info = builder.info
    try:
        undecoded = {"image": tfds.decode.SkipDecoding()}
        ids = builder.as_dataset(split=split, decoders=undecoded).map(lambda row: row["image_id"])
        sorted_ids = sorted(tfds.as_numpy(ids))
        position = {image_id: i for i, image_id in enumerate(sorted_ids)}
        shape = (len(position), image_size, image_size)
        images = _create_images(folder / "images.npy", shape)
        rows: list[dict[str, Any]] = [{} for _ in position]

        def stored(dataset: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
            for row in dataset:
                i = position[row["image_id"]]
                images[i] = shrink(row["image"][..., 0], image_size)
                rows[i] = {name: value for name, value in row.items() if name != "image"}
                yield row

        dataset = builder.as_dataset(split=split).prefetch(tf.data.AUTOTUNE)
        silent = jax.process_index() != 0
        shown = progress(tfds.as_numpy(dataset), f"decoding {split}", len(position), disable=silent)
        summary = summarise_split(stored(shown))
        images.flush()
    except (
        tf.errors.DataLossError,
        tf.errors.FailedPreconditionError,  # fewer records than TFDS has noted
        tf.errors.InvalidArgumentError,
        tf.errors.NotFoundError,
    ) as error:
        raise UserError(
            f"a record of {_broken_file(builder, split) or records} cannot be read "
            f"({_words(error.message)}); delete {records} and run data_prep.prepare again"
        ) from error

    text = {name: np.array([row[name].decode() for row in rows]) for name in TEXT_COLUMNS}
    numbers = {name: np.array([row[name] for row in rows], np.float32) for name in NUMBER_COLUMNS}
    classes = info.features["detailed_class"].names
    boxes = [np.float32(row["boxes"]).reshape(-1, 4) for row in rows]
    columns: dict[str, Any] = {
        "label": np.array([row["label"] for row in rows], np.int32),
        "detailed_class": np.array([classes[row["detailed_class"]] for row in rows]),
        "boxes": np.concatenate(boxes),
        "box_count": np.array([len(b) for b in boxes], np.int64),
    }
    with naming(folder / "columns.npz"):
        np.savez(folder / "columns.npz", **(columns | text | numbers))
    return summary


def _create_images(path: pathlib.Path, shape: tuple[int, ...]) -> np.memmap:
    """A new uint8 array in a memory map whose space on the disk is reserved.

    Without that, a write for which the disk has no room is no error but a signal, SIGBUS.

    Raises:
        OSError: the disk has no room for it.
    """
    with naming(path):
        images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with path.open("r+b") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                        raise  # but some file systems cannot reserve
    return images


def _words(message: str) -> str:
    """TensorFlow's message without the names of its ops around it."""
    return re.sub(r"\{\{.*?\}\}|\[Op:.*", "", message, flags=re.DOTALL).strip()


def _broken_file(builder: Any, split: str) -> str | None:
    """The first TFRecord file of the split that cannot be read completely."""
    import tensorflow as tf

    for path in builder.info.splits[split].filepaths:
        try:
            for _ in tf.data.TFRecordDataset(os.fspath(path)):
                pass
        except (tf.errors.DataLossError, tf.errors.NotFoundError):
            return os.fspath(path)
    return None
