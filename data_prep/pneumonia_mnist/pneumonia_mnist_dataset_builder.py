"""PneumoniaMNIST of MedMNIST v2 and MedMNIST+, in its official splits, as a TFDS dataset."""

import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds

from data_prep.cli import UserError
from data_prep.features import record_features
from data_prep.radiographs import accepted

RECORD = "https://zenodo.org/records/10519652"
# By the side in pixels, as the package medmnist 3.0.2 publishes them.
MD5 = {
    28: "28209eda62fecd6e6a2d98b1501bb15f",
    64: "8f4eceb4ccffa70c672198ea285246c6",
    128: "05b46931834c231683c68f40c47b2971",
    224: "d6a3c71de1b945ea11211b03746c1fe1",
}
CLASS_NAMES = ("normal", "pneumonia")
OFFICIAL_NAMES = {"train": "train", "validation": "val", "test": "test"}


def file_name(size: int) -> str:
    """The official file of images with `size` x `size` pixels."""
    return "pneumoniamnist.npz" if size == 28 else f"pneumoniamnist_{size}.npz"


def read_archive(path: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """split -> images (N, S, S) uint8 and labels (N,) int64 of 0 and 1; S is one of `MD5`.

    Raises:
      UserError: the file is missing or is not PneumoniaMNIST.
    """
    names = ", ".join(map(file_name, MD5))
    try:
        with np.load(path, allow_pickle=False) as archive:
            splits = {
                split: (archive[f"{name}_images"], archive[f"{name}_labels"].reshape(-1))
                for split, name in OFFICIAL_NAMES.items()
            }
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror or error}); --raw must be one of {names}, "
            f"from {RECORD}"
        ) from error
    except Exception as error:  # a zip of anything; numpy raises what it will
        raise UserError(
            f"{path} is not a PneumoniaMNIST archive ({error}); download it from {RECORD}"
        ) from error
    sizes = {images.shape[1:] for images, _ in splits.values()}
    for images, labels in splits.values():
        if (
            images.dtype != np.uint8
            or len(images) != len(labels)
            or sizes not in [{(size, size)} for size in MD5]
            or not np.isin(labels, (0, 1)).all()
        ):
            raise UserError(
                f"{path} holds images {images.dtype} {images.shape}, not uint8 (N, S, S) with S "
                f"one of {', '.join(map(str, MD5))} and labels 0 and 1; download one of {names} "
                f"from {RECORD}"
            )
    return {split: (images, labels.astype(np.int64)) for split, (images, labels) in splits.items()}


class Builder(tfds.core.GeneratorBasedBuilder):
    """Paediatric chest radiographs of Kermany et al. (2018) at 28, 64, 128 or 224 pixels."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Initial release."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=f"{size}px", description=f"{size} x {size} pixels.")
        for size in MD5
    ]

    def __init__(self, *, archive: str | None = None, **kwargs: Any) -> None:
        """`archive`: a file of the config's size; without it, it is downloaded and checked."""
        self._archive = archive
        self.outcomes: list[dict[str, str]] = []
        super().__init__(**kwargs)

    @property
    def _size(self) -> int:
        return int(self.builder_config.name.removesuffix("px"))

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=record_features(self._size, CLASS_NAMES),
            supervised_keys=("image", "label"),
            homepage="https://medmnist.com/",
            license="CC BY 4.0",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        archive = self._archive
        if archive is None:
            url = f"{RECORD}/files/{file_name(self._size)}?download=1"
            archive = os.fspath(dl_manager.download(url))
            found = hashlib.md5(Path(archive).read_bytes(), usedforsecurity=False).hexdigest()
            if found != MD5[self._size]:
                raise ValueError(f"{url} has MD5 {found}, not the official {MD5[self._size]}")
        return {
            split: self._generate_examples(split, images, labels)
            for split, (images, labels) in read_archive(archive).items()
        }

    def _generate_examples(
        self, split: str, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            image_id = f"{split}-{number:05d}"
            self.outcomes.append(accepted(file_name(self._size), image_id, split))
            yield (
                image_id,
                {
                    "image": cv2.imencode(".png", image)[1].tobytes(),
                    "label": label,
                    "detailed_class": CLASS_NAMES[label],
                    "boxes": [],
                    "image_id": image_id,
                    "patient_id": "",  # not published
                    "view": "",
                    "sex": "",
                    "age": math.nan,
                    "spacing": math.nan,
                },
            )
