"""The same preparation as an Apache Beam pipeline, for more films than one machine should do.

Needs `requirements-beam.txt`; docs/data.md says how to run it.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_prep.radiographs import Film, Preprocessing, lost_film, prepare_film
from data_prep.rsna import Record
from data_prep.workers import Lost, Worker

Task = tuple[Record, Preprocessing]


class PrepareFilm(beam.DoFn):
    """A film, decoded in a process of its own: a runner too must survive what decoders do."""

    def setup(self) -> None:
        self._worker = Worker(prepare_film)

    def process(self, task: Task) -> Iterator[Film]:
        result = self._worker.call(task)
        yield lost_film(task, result) if isinstance(result, Lost) else result

    def teardown(self) -> None:
        self._worker.kill()


class Films(beam.PTransform):
    """A pipeline's begin -> (image id, example) of the films that are accepted.

    Args:
      tasks: one per record.
      outcomes: where a line of JSON per task goes, as the prefix of the files' names.
    """

    def __init__(self, tasks: Sequence[Task], outcomes: str) -> None:
        super().__init__()
        self._tasks = tasks
        self._outcomes = outcomes

    def expand(self, pipeline: Any) -> Any:
        films = (
            pipeline
            | beam.Create(self._tasks)
            | beam.Reshuffle()  # else one worker decodes all that it has created
            | beam.ParDo(PrepareFilm())
        )
        _ = films | "Outcome" >> beam.Map(_outcome_line) | beam.io.WriteToText(self._outcomes)
        return films | "Example" >> beam.FlatMap(_keyed_example)


def _outcome_line(film: Film) -> str:
    return json.dumps(film.outcome)


def _keyed_example(film: Film) -> list[tuple[str, dict[str, Any]]]:
    return [(film.example["image_id"], film.example)] if film.example else []


def parse_options(text: str) -> PipelineOptions:
    """`name=value,name=value` -> the options of a pipeline."""
    return PipelineOptions([f"--{option}" for option in text.split(",")])
