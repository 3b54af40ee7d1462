"""RSNA Pneumonia Detection Challenge (2018), split by real patient, as a TFDS dataset."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from data_prep import rsna
from data_prep.features import record_features
from data_prep.film import Preprocessing, prepare_film, refusal_of
from data_prep.refusal import DicomRefusal
from data_prep.workers import run_tasks

_SIZES = (64, 128, 224, 256, 320, 384, 512, 1024)


@dataclasses.dataclass(eq=False)
class RsnaConfig(tfds.core.BuilderConfig):
    """A variant of the records: how films are preprocessed, and what a split keeps together."""

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
    """Films that cannot be used are left out; `python -m data_prep.prepare` lists them too."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}
    BUILDER_CONFIGS = [
        *(RsnaConfig.of(Preprocessing(size)) for size in _SIZES),
        *(RsnaConfig.of(Preprocessing(256), scheme) for scheme in ("image", "row")),
        RsnaConfig.of(Preprocessing(224, "squash", "nearest"), "row"),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    Download and unpack the RSNA Pneumonia Detection Challenge (2018), and put the folder, with
    {rsna.LABELS}, {rsna.CLASSES} and {rsna.IMAGES}/ in it, at manual_dir. The official mapping
    of the challenge's ids to patients ({rsna.MAPPING}) is downloaded unless it lies there too.
    """

    def __init__(self, *, mapping: str | None = None, workers: int = 0, **kwargs: Any) -> None:
        """`mapping`: the file to use; `workers`: processes that decode, 0 decodes in this one."""
        self._mapping = mapping
        self._workers = workers
        # What became of every input, for the manifest: file, image_id, status, split or code.
        self.outcomes: list[dict[str, str]] = []
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

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        raw = Path(dl_manager.manual_dir)
        scheme = self.builder_config.split_scheme
        mapping = self._find_mapping(raw, dl_manager, scheme == "patient")
        records, refused = rsna.plan_records(raw, mapping and rsna.read_mapping(mapping), scheme)
        for name, refusal in refused.items():
            self._reject(name, refusal)
        return {
            split: self._generate_examples([r for r in records if r.split == split])
            for split in rsna.SPLITS
        }

    def _find_mapping(
        self, raw: Path, dl_manager: tfds.download.DownloadManager, is_needed: bool
    ) -> Path | None:
        if self._mapping:
            return Path(self._mapping)
        if (raw / rsna.MAPPING).exists():
            return raw / rsna.MAPPING
        if not is_needed:
            return None
        path = Path(os.fspath(dl_manager.download(rsna.MAPPING_URL)))
        if hashlib.sha256(path.read_bytes()).hexdigest() != rsna.MAPPING_SHA256:
            raise ValueError(f"{rsna.MAPPING_URL} is not the file with the official SHA-256")
        return path

    def _generate_examples(
        self, records: list[rsna.Record]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        tasks = ((record, self.builder_config.preprocessing) for record in records)
        results = run_tasks(prepare_film, tasks, workers=self._workers)
        split = records[0].split if records else ""
        for (record, _), film in tqdm(results, split, len(records), unit="image"):
            refusal = refusal_of(film)
            if refusal:
                self._reject(record.path.name, refusal)
                continue
            self.outcomes.append(
                {
                    "file": record.path.name,
                    "image_id": record.image_id,
                    "status": "accepted",
                    "split": split,
                }
            )
            yield (
                record.image_id,
                {
                    **film,
                    "label": record.label,
                    "detailed_class": record.detailed_class,
                    "image_id": record.image_id,
                    "patient_id": record.patient_id,
                },
            )

    def _reject(self, name: str, refusal: DicomRefusal) -> None:
        self.outcomes.append(
            {
                "file": name,
                "status": "rejected",
                "code": refusal.code,
                "message": refusal.message,
            }
        )
