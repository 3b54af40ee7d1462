"""The same preparation as an Apache Beam pipeline, for more images than one machine should do.

Needs `requirements-beam.txt`; docs/data.md says how to run it.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_prep.radiographs import Prepared, Preprocessing, lost_radiograph, prepare_radiograph
from data_prep.records import Record
from data_prep.workers import Lost, Worker

Task = tuple[Record, Preprocessing]


class PrepareRadiograph(beam.DoFn):
    """Decodes in a process of its own, so that a decoder's crash does not end the runner."""

    def setup(self) -> None:
        self._worker = Worker(prepare_radiograph)

    def process(self, task: Task) -> Iterator[Prepared]:
        result = self._worker.call(task)
        yield lost_radiograph(task, result) if isinstance(result, Lost) else result

    def teardown(self) -> None:
        self._worker.kill()


class Radiographs(beam.PTransform):
    """A pipeline's begin -> (image id, example) of each accepted radiograph.

    Args:
      tasks: one per record.
      outcomes: prefix of the files that get a line of JSON per task.
    """

    def __init__(self, tasks: Sequence[Task], outcomes: str) -> None:
        super().__init__()
        self._tasks = tasks
        self._outcomes = outcomes

    def expand(self, pipeline: Any) -> Any:
        prepared = (
            pipeline
            | beam.Create(self._tasks)
            | beam.Reshuffle()  # else the worker that creates the tasks decodes all of them
            | beam.ParDo(PrepareRadiograph())
        )
        _ = prepared | "Outcome" >> beam.Map(_outcome_line) | beam.io.WriteToText(self._outcomes)
        return prepared | "Example" >> beam.FlatMap(_keyed_example)


def _outcome_line(prepared: Prepared) -> str:
    return json.dumps(prepared.outcome)


def _keyed_example(prepared: Prepared) -> list[tuple[str, dict[str, Any]]]:
    return [(prepared.example["image_id"], prepared.example)] if prepared.example else []


def parse_options(text: str) -> PipelineOptions:
    """`name=value,name=value` -> the options of a pipeline."""
    return PipelineOptions([f"--{option}" for option in text.split(",")])
