"""What every TFDS builder of radiographs shares: the variant's name, and records -> examples."""

import abc
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from data_prep import cli
from data_prep.dicom import DicomRefusal
from data_prep.manifest import outcomes_dir
from data_prep.radiographs import (
    Prepared,
    Preprocessing,
    lost_radiograph,
    prepare_radiograph,
    rejected,
)
from data_prep.records import SPLITS, Record
from data_prep.workers import Lost, run_tasks


@dataclasses.dataclass(eq=False)
class RecordConfig(tfds.core.BuilderConfig):
    """A variant of the records: how images are preprocessed, and what a split keeps together."""

    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    split_scheme: str = "patient"

    @classmethod
    def of(cls, preprocessing: Preprocessing, split_scheme: str = "patient") -> "RecordConfig":
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


class RecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Makes the records that `plan` names; `python -m data_prep.prepare` lists what is refused."""

    def __init__(self, *, workers: int = 0, use_beam: bool = False, **kwargs: Any) -> None:
        """Makes a builder.

        Args:
          workers: processes that decode; 0 decodes in this one, with no limits per file.
          use_beam: be a Beam pipeline instead of using processes of this machine.
          **kwargs: those of every TFDS builder.
        """
        self._workers = workers
        self._use_beam = use_beam
        self.outcomes: list[dict[str, Any]] = []  # what became of every input, for the manifest
        super().__init__(**kwargs)
        # Asked for here, because TFDS has data_dir point to a draft while it prepares.
        self._beam_outcomes = outcomes_dir(epath.Path(self.data_dir))

    @abc.abstractmethod
    def plan(
        self, dl_manager: tfds.download.DownloadManager
    ) -> tuple[Sequence[Record], Mapping[str, DicomRefusal]]:
        """The records to be made, and by file what is refused before it is read."""

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        records, refused = self.plan(dl_manager)
        self.outcomes = [rejected(name, refusal) for name, refusal in refused.items()]
        by_split = {
            split: [record for record in records if record.split == split] for split in SPLITS
        }
        # A data set with splits of its own may have none to train on.
        return {
            split: self._generate_examples(split, found)
            for split, found in by_split.items()
            if found
        }

    def _generate_examples(self, split: str, records: list[Record]) -> Any:
        tasks = [(record, self.builder_config.preprocessing) for record in records]
        if self._use_beam:
            from data_prep.beam import Radiographs

            return Radiographs(tasks, os.fspath(self._beam_outcomes / split))
        return self._decode(split, tasks)

    def _decode(
        self, split: str, tasks: list[tuple[Record, Preprocessing]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        results = run_tasks(prepare_radiograph, tasks, workers=self._workers)
        for task, result in cli.progress(results, f"preparing {split}", len(tasks)):
            is_lost = isinstance(result, Lost)
            prepared: Prepared = lost_radiograph(task, result) if is_lost else result
            self.outcomes.append(prepared.outcome)
            if prepared.example:
                yield prepared.example["image_id"], prepared.example
