"""TFRecords -> a memory-mapped array of decoded images -> sharded device batches.

A split is decoded, and shrunk where it was prepared at a larger size, once, into files that later
runs check and map into memory (`decoded_cache`; RSNA at 256 px: 1.7 GB). Batch s is then a plain
gather by an index that is a pure function of (seed, s): the same on any number of hosts, and
resuming costs the same at any step. benchmarks/input_pipeline.py has the measurements behind this
choice over tf.data.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cbam_flax import folds as folds_lib
from cbam_flax.decoded_cache import decoded
from cbam_flax.sharding import batch_sharding
from data_prep.cli import UserError
from data_prep.manifest import findings, read_manifest


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a prepared data set, ordered by image id.

    Attributes:
        name: train, validation or test.
        images: uint8 (N, S, S), memory-mapped; S can be less than the manifest's `image_size`.
        columns: arrays of length N: label int32, (N, k) with -1 for "not labelled" where the
            data have several findings (`manifest.findings`); image_id, patient_id, view, sex,
            detailed_class str ("" where missing); age (years) and spacing (mm) float32 (NaN where
            missing); boxes, objects of float32 (K, 4) as ymin, xmin, ymax, xmax in [0, 1].
        manifest: what data_prep.prepare wrote beside the records.
    """

    name: str
    images: np.ndarray
    columns: dict[str, np.ndarray]
    manifest: dict[str, Any]

    @property
    def labels(self) -> np.ndarray:
        return self.columns["label"]

    @property
    def findings(self) -> tuple[str, ...]:
        """What the labels are of, in the order of their columns."""
        return findings(self.manifest)

    @property
    def fingerprint(self) -> str:
        """The hash of the split's decoded content."""
        return self.manifest["splits"][self.name]["content_sha256"]

    def __len__(self) -> int:
        return len(self.images)

    def with_shuffled_labels(self, rng: np.random.Generator) -> "Split":
        """The split with its labels permuted, those of an image together."""
        columns = self.columns | {"label": rng.permutation(self.labels)}
        return dataclasses.replace(self, columns=columns)


def with_variant(data_dir: str, dataset: str, image_size: int) -> str:
    """`dataset`, with its variant where that is of a larger size than `image_size`.

    A `name` stands for the variant `<image_size>px`, or, where that is not prepared, for the
    smallest larger one. One with other options, such as `name/512px-row`, is taken by name only.
    """
    from etils import epath

    if "/" in dataset:
        return dataset
    variants = [
        path.parent.parent.name
        for path in (epath.Path(data_dir) / dataset).glob("*px/*/manifest.json")
    ]
    sizes = [int(size) for name in variants if (size := name.removesuffix("px")).isdecimal()]
    size = min((size for size in sizes if size >= image_size), default=image_size)
    return dataset if size == image_size else f"{dataset}/{size}px"


def record_dir(data_dir: str, dataset: str, image_size: int) -> Any:
    """The folder of the newest version of a prepared data set, as an epath.Path (local or gs://).

    Args:
        data_dir: as given to data_prep.prepare.
        dataset: `name`, for the variant that `with_variant` says, or `name/variant`.

    Raises:
        UserError: no such data; the message lists what is there.
    """
    from etils import epath

    name, _, variant = with_variant(data_dir, dataset, image_size).partition("/")
    folder = epath.Path(data_dir) / name / (variant or f"{image_size}px")
    versions = sorted(path.parent for path in folder.glob("*/manifest.json"))
    if not versions:
        there = sorted(
            str(path.parent.parent.relative_to(data_dir))
            for path in epath.Path(data_dir).glob("*/*/*/manifest.json")
        )
        raise UserError(
            f"no prepared data in {folder}; "
            + (f"{data_dir} holds {', '.join(there)}" if there else f"{data_dir} holds none")
            + "; run data_prep.prepare or change config.data_dir, dataset or image_size (images "
            "are shrunk to it, never enlarged)"
        )
    return versions[-1]


def load_split(
    data_dir: str, dataset: str, image_size: int, split: str, folds: int = 0, fold: int = 0
) -> Split:
    """Maps a split into memory, decoding and shrinking its TFRecords the first time.

    Args:
        folds, fold: as in the config; the split is then this fold's (`cbam_flax.folds`).

    Raises:
        UserError: no such data, a broken manifest or record, records that are not those of the
            manifest, a split that is empty or of smaller images, too few patients for folds.
    """
    if folds:
        return open_splits(data_dir, dataset, image_size, folds, fold)(split)
    folder = record_dir(data_dir, dataset, image_size)
    manifest = read_manifest(folder)
    size = manifest["preprocessing"]["image_size"]
    if size < image_size:
        raise UserError(
            f"{folder} holds images of {size} px, config.image_size is {image_size}; images are "
            f"never enlarged: lower it, or run data_prep.prepare with --image_size={image_size}"
        )
    if split not in manifest["splits"] or not manifest["splits"][split]["images"]:
        raise UserError(f"the split {split!r} of {folder} is empty; prepare more data")
    cache = decoded(folder, split, manifest, image_size)
    with np.load(cache / "columns.npz") as columns:
        loaded = dict(columns)
    boxes = np.empty(len(loaded["label"]), object)
    boxes[:] = np.split(loaded.pop("boxes"), np.cumsum(loaded.pop("box_count"))[:-1])
    images = np.load(cache / "images.npy", mmap_mode="r")
    return Split(split, images, loaded | {"boxes": boxes}, manifest)


def open_splits(
    data_dir: str, dataset: str, image_size: int, folds: int = 0, fold: int = 0
) -> Callable[[str], Split]:
    """A function from the name of a split to what `load_split` gives for it, loaded once.

    The splits of a fold are divided together, by the first call. What changes on the disk after a
    split was loaded is noticed by those who open the splits anew.

    Raises:
        UserError: as `load_split`, by the function.
    """
    load = functools.partial(load_split, data_dir, dataset, image_size)
    if not folds:
        return functools.cache(load)

    @functools.cache
    def divided() -> dict[str, Split]:
        there = read_manifest(record_dir(data_dir, dataset, image_size))["splits"]
        prepared = [load(name) for name in sorted(there) if there[name]["images"]]
        return _splits_of_fold(prepared, folds, fold)

    return lambda split: divided()[split]


def _splits_of_fold(prepared: Sequence[Split], folds: int, fold: int) -> dict[str, Split]:
    """The splits of one fold of all the images of these splits."""
    manifest = prepared[0].manifest
    columns = folds_lib.merge([each.columns for each in prepared])
    by_id = np.argsort(columns["image_id"], kind="stable")
    columns = {name: column[by_id] for name, column in columns.items()}
    source = source_images(columns["image_id"], manifest["split_scheme"])
    group = np.where(columns["patient_id"] == "", source, columns["patient_id"])
    divided = folds_lib.divide(columns["label"], group, folds, fold)
    of_fold = folds_lib.manifest_of_fold(manifest, columns, divided, folds, fold)
    arrays = [each.images for each in prepared]
    splits = {}
    for split, chosen in divided.items():
        images: Any = folds_lib.Rows(arrays, by_id[chosen])
        of_split = {name: column[chosen] for name, column in columns.items()}
        splits[split] = Split(split, images, of_split, of_fold)
    return splits


def source_images(image_id: np.ndarray, split_scheme: str) -> np.ndarray:
    """The image that each record is of: under the `row` scheme a record's id is "image#number"."""
    if split_scheme != "row":
        return image_id
    return np.array([name.rpartition("#")[0] for name in image_id])


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """Which examples form batch `step`: a pure function of the seed and the step.

    The stream is one permutation per epoch, cut into batches. A batch can straddle two epochs; no
    example is dropped or repeated within one. With "balanced" an epoch
    holds each example of the larger class once, and the smaller class repeated to match.
    """

    labels: np.ndarray
    batch_size: int
    seed: int
    sampling: str = "uniform"

    @property
    def epoch_size(self) -> int:
        if self.sampling == "uniform":
            return len(self.labels)
        return 2 * int(np.bincount(self.labels).max())

    def batch(self, step: int) -> np.ndarray:
        """Indices int64 (batch_size,) of the examples of the batch that `step` trains on."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, offsets = np.divmod(positions, self.epoch_size)
        return np.concatenate(
            [self._epoch(int(epoch))[offsets[epochs == epoch]] for epoch in np.unique(epochs)]
        )

    @functools.lru_cache(maxsize=2)  # noqa: B019 - an order lives as long as its run
    def _epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        if self.sampling == "uniform":
            return rng.permutation(len(self.labels))
        half = self.epoch_size // 2
        classes = [rng.permutation(np.flatnonzero(self.labels == value)) for value in (0, 1)]
        return rng.permutation(np.concatenate([np.resize(members, half) for members in classes]))


def put_batch(
    images: np.ndarray, labels: np.ndarray, indices: np.ndarray, mesh: Mesh
) -> dict[str, jax.Array]:
    """The batch of these examples as global arrays; each host reads only what its devices hold.

    Returns:
        `image` uint8 (B, S, S) and `label` int32 (B,) or (B, k), sharded by
        `sharding.batch_sharding`.
    """
    shardings = batch_sharding(mesh)

    def pixels(index: Any) -> Any:
        return images[(indices[index[0]], *index[1:])]

    def own_labels(index: Any) -> Any:
        return labels[indices[index[0]]]

    shape = (len(indices), *images.shape[1:])
    return {
        "image": jax.make_array_from_callback(shape, shardings["image"], pixels),
        "label": jax.make_array_from_callback(
            (len(indices), *labels.shape[1:]),
            shardings["label"],
            own_labels,
        ),
    }


def abstract_batch(
    batch_size: int, image_size: int, mesh: Mesh, findings: int = 1
) -> dict[str, Any]:
    """The shapes and shardings of what `put_batch` returns, for ahead-of-time compilation."""
    shardings = batch_sharding(mesh)
    shape = (batch_size, image_size, image_size)
    label = (batch_size,) if findings == 1 else (batch_size, findings)
    return {
        "image": jax.ShapeDtypeStruct(shape, np.uint8, sharding=shardings["image"]),
        "label": jax.ShapeDtypeStruct(label, np.int32, sharding=shardings["label"]),
    }


def train_batches(
    split: Split, order: Order, mesh: Mesh, *, start: int, stop: int
) -> Iterator[dict[str, jax.Array]]:
    """The batches of the steps from `start` to `stop`, two of them prepared ahead in a thread."""
    with ThreadPoolExecutor(1, "batches") as pool:
        make = lambda step: put_batch(split.images, order.labels, order.batch(step), mesh)  # noqa: E731
        ahead = [pool.submit(make, step) for step in range(start, min(start + 2, stop))]
        for step in range(start, stop):
            if step + 2 < stop:
                ahead.append(pool.submit(make, step + 2))
            yield ahead.pop(0).result()
