"""WORKDIR/metrics.jsonl: the scalars of a run, a JSON object in each line."""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from clu import metric_writers
from etils import epath

from data_prep.cli import UserError, naming
from data_prep.files.text_files import read_json_lines, replace_text

OBJECT_SECONDS = 10.0  # between two uploads: a bucket takes one a second of an object


class JsonlWriter(metric_writers.MultiWriter):
    """Scalars as lines of WORKDIR/metrics.jsonl; other kinds are ignored.

    A file gets each line at once. An object in a bucket cannot be appended to: it is replaced
    whole, at most every `OBJECT_SECONDS`, and by `flush`.

    Lines after `start` are dropped, since a resumed run will write them again.
    """

    def __init__(self, workdir: str, start: int):
        super().__init__([])
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._waiting: list[str] = []
        self._written = ""  # the content at the start; of an object, always
        self._due = 0.0
        if self._path.exists():
            kept = (row for row in read_scalars(self._path) if row["step"] <= start)
            self._written = "".join(json.dumps(row) + "\n" for row in kept)
            if self._written != self._path.read_text():
                replace_text(self._path, self._written)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        row = {"step": step} | {name: round(float(value), 6) for name, value in scalars.items()}
        self._waiting.append(json.dumps(row) + "\n")
        if not _is_object(self._path) or time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        if _is_object(self._path):
            self._written += "".join(self._waiting)
            replace_text(self._path, self._written)
            self._due = time.monotonic() + OBJECT_SECONDS
        else:
            with naming(self._path), self._path.open("a") as file:
                file.writelines(self._waiting)
        self._waiting.clear()


def _is_object(path: epath.Path) -> bool:
    """Whether the path is in a bucket, not in a file system."""
    return "://" in os.fspath(path)


def read_scalars(path: epath.Path) -> list[dict[str, float]]:
    """The scalars in a metrics.jsonl, one object for each `step`.

    A step has a line for its training figures and one for its validation figures.

    Raises:
        UserError: a line that is no JSON object of numbers with a step.
    """
    mend = "mend that line, or delete the file: only the curves of earlier steps are lost with it"
    rows: dict[int, dict[str, float]] = {}
    for number, row in enumerate(read_json_lines(path, mend), 1):
        if type(row.get("step")) is not int or not {type(v) for v in row.values()} <= {int, float}:
            raise UserError(f"line {number} of {path} lacks a step, or has no numbers; {mend}")
        rows[row["step"]] = rows.get(row["step"], {}) | row
    return list(rows.values())
