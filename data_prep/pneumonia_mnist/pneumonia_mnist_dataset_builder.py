"""PneumoniaMNIST of MedMNIST v2, in its official splits, as a TFDS dataset."""

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

FILE = "pneumoniamnist.npz"
URL = "https://zenodo.org/records/10519652/files/pneumoniamnist.npz?download=1"
MD5 = "28209eda62fecd6e6a2d98b1501bb15f"  # as MedMNIST publishes it
CLASS_NAMES = ("normal", "pneumonia")
OFFICIAL_NAMES = {"train": "train", "validation": "val", "test": "test"}


def read_archive(path: str | os.PathLike[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """split -> images (N, 28, 28) uint8 and labels (N,) int64 of 0 and 1.

    Raises:
      UserError: the file is missing or is not PneumoniaMNIST at 28 pixels.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            splits = {
                split: (archive[f"{name}_images"], archive[f"{name}_labels"].reshape(-1))
                for split, name in OFFICIAL_NAMES.items()
            }
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror or error}); --raw must be {FILE}, from {URL}"
        ) from error
    except Exception as error:  # a zip of anything; numpy raises what it will
        raise UserError(
            f"{path} is not a PneumoniaMNIST archive ({error}); download it from {URL}"
        ) from error
    for images, labels in splits.values():
        if (
            images.dtype != np.uint8
            or images.shape != (len(labels), 28, 28)
            or not np.isin(labels, (0, 1)).all()
        ):
            raise UserError(
                f"{path} holds images {images.dtype} {images.shape}, not uint8 (N, 28, 28) with "
                f"labels 0 and 1; download the 28-pixel file from {URL}"
            )
    return {split: (images, labels.astype(np.int64)) for split, (images, labels) in splits.items()}


class Builder(tfds.core.GeneratorBasedBuilder):
    """Paediatric chest radiographs of Kermany et al. (2018) at 28 x 28 pixels."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Initial release."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="28px", description="28 x 28 pixels.")
    ]

    def __init__(self, *, archive: str | None = None, **kwargs: Any) -> None:
        """`archive`: the file to use; without it, it is downloaded and checked."""
        self._archive = archive
        self.outcomes: list[dict[str, str]] = []
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=record_features(28, CLASS_NAMES),
            supervised_keys=("image", "label"),
            homepage="https://medmnist.com/",
            license="CC BY 4.0",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        archive = self._archive
        if archive is None:
            archive = os.fspath(dl_manager.download(URL))
            found = hashlib.md5(Path(archive).read_bytes(), usedforsecurity=False).hexdigest()
            if found != MD5:
                raise ValueError(f"{URL} has MD5 {found}, not the official {MD5}")
        return {
            split: self._generate_examples(split, images, labels)
            for split, (images, labels) in read_archive(archive).items()
        }

    def _generate_examples(
        self, split: str, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            image_id = f"{split}-{number:05d}"
            self.outcomes.append(accepted(FILE, image_id, split))
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
