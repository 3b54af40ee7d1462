"""RSNA Pneumonia Detection Challenge (2018), split by real patient, as a TFDS dataset."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from etils import epath

from data_prep import cli, mapping, rsna
from data_prep.features import record_features
from data_prep.manifest import outcomes_dir
from data_prep.radiographs import (
    Prepared,
    Preprocessing,
    lost_radiograph,
    prepare_radiograph,
    rejected,
)
from data_prep.workers import Lost, run_tasks

_SIZES = (256, 64, 128, 224, 320, 384, 512, 1024)  # the first is TFDS's default


@dataclasses.dataclass(eq=False)
class RsnaConfig(tfds.core.BuilderConfig):
    """A variant of the records: how images are preprocessed, and what a split keeps together."""

    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    split_scheme: str = "patient"

    @classmethod
    def of(cls, preprocessing: Preprocessing, split_scheme: str = "patient") -> "RsnaConfig":
        """The config with the name that belongs to these settings, such as `256px-image`."""
        name = f"{preprocessing.image_size}px"
        for value, default in (
            (split_scheme, "patient"),
            (preprocessing.aspect, "letterbox"),
            (preprocessing.interpolation, "area"),
        ):
            if value != default:
                name += f"-{value}"
        if preprocessing.voi != "first":
            name += "-novoi"
        description = f"{preprocessing}, split by {split_scheme}."
        return cls(
            name=name,
            description=description,
            preprocessing=preprocessing,
            split_scheme=split_scheme,
        )


class Builder(tfds.core.GeneratorBasedBuilder):
    """Images that cannot be used are left out; `python -m data_prep.prepare` lists them too."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Initial release."}
    BUILDER_CONFIGS: ClassVar = [
        *(RsnaConfig.of(Preprocessing(size)) for size in _SIZES),
        *(RsnaConfig.of(Preprocessing(256), scheme) for scheme in ("image", "row")),
        RsnaConfig.of(Preprocessing(224, "squash", "nearest"), "row"),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    Download and unpack the RSNA Pneumonia Detection Challenge (2018), and put the folder, with
    {rsna.LABELS}, {rsna.CLASSES} and {rsna.IMAGES}/ in it, at manual_dir. The official mapping
    of the challenge's ids to patients ({mapping.NAME}) is downloaded unless it lies there too.
    """

    def __init__(
        self, *, mapping_file: str = "", workers: int = 0, use_beam: bool = False, **kwargs: Any
    ) -> None:
        """Makes a builder.

        Args:
          mapping_file: the mapping to patients; else the one in manual_dir, else downloaded.
          workers: processes that decode; 0 decodes in this one, with no limits per file.
          use_beam: be a Beam pipeline instead of using processes of this machine.
          **kwargs: those of every TFDS builder.
        """
        self._mapping_file = mapping_file
        self._workers = workers
        self._use_beam = use_beam
        self.outcomes: list[dict[str, str]] = []  # what became of every input, for the manifest
        super().__init__(**kwargs)
        # Asked for here, because TFDS has data_dir point to a draft while it prepares.
        self._beam_outcomes = outcomes_dir(epath.Path(self.data_dir))

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.preprocessing.image_size
        return self.dataset_info_from_configs(
            features=record_features(size, rsna.CLASS_NAMES),
            supervised_keys=("image", "label"),
            homepage="https://www.rsna.org/artificial-intelligence/ai-image-challenge/"
            "rsna-pneumonia-detection-challenge-2018",
            license="RSNA: academic and other use is allowed with attribution.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        raw = epath.Path(dl_manager.manual_dir)
        scheme = self.builder_config.split_scheme
        records, refused = rsna.plan_records(raw, self._read_patients(raw, dl_manager), scheme)
        self.outcomes = [rejected(name, refusal) for name, refusal in refused.items()]
        return {
            split: self._generate_examples(
                split, [record for record in records if record.split == split]
            )
            for split in rsna.SPLITS
        }

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

    def _generate_examples(self, split: str, records: list[rsna.Record]) -> Any:
        tasks = [(record, self.builder_config.preprocessing) for record in records]
        if self._use_beam:
            from data_prep.beam import Radiographs

            return Radiographs(tasks, os.fspath(self._beam_outcomes / split))
        return self._decode(split, tasks)

    def _decode(
        self, split: str, tasks: list[tuple[rsna.Record, Preprocessing]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        results = run_tasks(prepare_radiograph, tasks, workers=self._workers)
        for task, result in cli.progress(results, f"preparing {split}", len(tasks)):
            is_lost = isinstance(result, Lost)
            prepared: Prepared = lost_radiograph(task, result) if is_lost else result
            self.outcomes.append(prepared.outcome)
            if prepared.example:
                yield prepared.example["image_id"], prepared.example
