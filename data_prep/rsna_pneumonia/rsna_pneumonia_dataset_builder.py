"""RSNA Pneumonia Detection Challenge (2018), split by real patient, as a TFDS dataset."""

import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath

from data_prep import mapping, rsna
from data_prep.dicom import DicomRefusal
from data_prep.features import record_features
from data_prep.radiographs import Preprocessing
from data_prep.record_builder import RecordBuilder, RecordConfig
from data_prep.records import Record

_SIZES = (256, 64, 128, 224, 320, 384, 512, 1024)  # the first is TFDS's default


class Builder(RecordBuilder):
    """Images that cannot be used are left out; `python -m data_prep.prepare` lists them too."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Initial release."}
    BUILDER_CONFIGS: ClassVar = [
        *(RecordConfig.of(Preprocessing(size)) for size in _SIZES),
        *(RecordConfig.of(Preprocessing(256), scheme) for scheme in ("image", "row")),
        RecordConfig.of(Preprocessing(224, "squash", "nearest"), "row"),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    Download and unpack the RSNA Pneumonia Detection Challenge (2018), and put the folder, with
    {rsna.LABELS}, {rsna.CLASSES} and {rsna.IMAGES}/ in it, at manual_dir. The official mapping
    of the challenge's ids to patients ({mapping.NAME}) is downloaded unless it lies there too.
    """

    def __init__(self, *, mapping_file: str = "", **kwargs: Any) -> None:
        """Makes a builder.

        Args:
          mapping_file: the mapping to patients; else the one in manual_dir, else downloaded.
          **kwargs: those of `RecordBuilder`.
        """
        self._mapping_file = mapping_file
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.preprocessing.image_size
        return self.dataset_info_from_configs(
            features=record_features(size, rsna.CLASS_NAMES),
            supervised_keys=("image", "label"),
            homepage="https://www.rsna.org/artificial-intelligence/ai-image-challenge/"
            "rsna-pneumonia-detection-challenge-2018",
            license="RSNA: academic and other use is allowed with attribution.",
        )

    def plan(
        self, dl_manager: tfds.download.DownloadManager
    ) -> tuple[list[Record], dict[str, DicomRefusal]]:
        raw = epath.Path(dl_manager.manual_dir)
        scheme = self.builder_config.split_scheme
        return rsna.plan_records(raw, self._read_patients(raw, dl_manager), scheme)

    def _read_patients(
        self, raw: epath.Path, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, str] | None:
        if self._mapping_file:
            return mapping.read_mapping(Path(self._mapping_file))
        if (raw / mapping.NAME).exists():
            return mapping.read_mapping(raw / mapping.NAME)
        if self.builder_config.split_scheme != "patient":
            return None
        path = Path(os.fspath(dl_manager.download(mapping.URL)))
        if hashlib.sha256(path.read_bytes()).hexdigest() != mapping.SHA256:
            raise ValueError(f"{mapping.URL} gave a file without the official SHA-256")
        return mapping.read_mapping(path)
