"""The TFDS builder of a data set that a plan describes; its name is the user's."""

from collections.abc import Mapping
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from data_prep.dicom import DicomRefusal
from data_prep.features import record_features
from data_prep.record_builder import RecordBuilder
from data_prep.records import Record
from data_prep.tables.plan import Plan


class TableBuilder(RecordBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Not registered with TFDS: what it wrote is read by `tfds.load(name, data_dir=...)`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Initial release."}

    def __init__(self, *, name: str, plan: Plan, **kwargs: Any) -> None:
        """`name`: of the data set; further arguments are those of `RecordBuilder`."""
        self.name = name
        self._plan = plan
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.preprocessing.image_size
        return tfds.core.DatasetInfo(
            builder=self,
            description="Prepared by data_prep from tables or folders.",
            features=record_features(size, self._plan.detailed_classes, self._plan.findings),
            supervised_keys=("image", "label"),
        )

    def plan(
        self, dl_manager: tfds.download.DownloadManager
    ) -> tuple[tuple[Record, ...], Mapping[str, DicomRefusal]]:
        return self._plan.records, self._plan.refused
