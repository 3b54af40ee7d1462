"""The lines that runs leave in results/STUDY.csv: figures, and the same on resamples of patients.

No image, label or prediction is in a line. What allows differences between runs that are paired by
image are the figures on `RESAMPLES` resamples of the patients: the resamples are a function of the
judged images alone, so the b-th of two runs is of the same patients.
"""

import base64
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.files import csv_files

RESULTS = pathlib.Path(__file__).parent / "results"
RESAMPLES = 250
KEY = ("variant", "seed", "fold", "judged")  # one line each
COLUMNS = (
    *(*KEY, "config_sha256", "code_sha256", "trained_on", "evaluated_on", "unit"),
    *("images", "positive", "patients", "patients_positive", "patients_negative"),
    *("parameters", "mflop", "cpu_seconds"),
)
MEND = "restore the file, or delete it and run the study again"
_UNDEFINED = 65535
Line = dict[str, Any]


def path_of(study: str, results: pathlib.Path = RESULTS) -> pathlib.Path:
    return results / f"{study}.csv"


def key_of(line: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(line[name]) for name in KEY)


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """The lines of a study, none where there is no file.

    Raises:
        UserError: the file is broken.
    """
    return csv_files.read(path, COLUMNS, MEND) if path.exists() else []


def add(path: pathlib.Path, lines: Iterable[Line], variants: Sequence[str]) -> None:
    """Puts the lines into the file in place of those with the same key, sorted by variant and seed.

    Lines of variants that the study no longer has are kept, at the end.
    """
    every = {key_of(line): line for line in [*read(path), *lines]}
    place = {name: number for number, name in enumerate(variants)}

    def order(line: Mapping[str, Any]) -> tuple[Any, ...]:
        place_of_it = place.get(line["variant"], len(place))
        return (place_of_it, line["variant"], int(line["seed"]), int(line["fold"]), line["judged"])

    ordered = sorted(every.values(), key=order)
    columns = list(dict.fromkeys(name for line in ordered for name in line))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    csv_files.write(draft, columns, ([line.get(name, "") for name in columns] for line in ordered))
    draft.replace(path)


def encode(samples: np.ndarray) -> str:
    """Figures in [0, 1] (r,) as 16 bits each, in base64; nan where undefined.

    A step is 1.5e-5, far below the spread of any figure over patients.
    """
    steps = np.where(np.isnan(samples), _UNDEFINED, np.round(samples * (_UNDEFINED - 1)))
    return base64.b64encode(steps.astype("<u2").tobytes()).decode()


def decode(text: str) -> np.ndarray:
    """What `encode` was given."""
    steps = np.frombuffer(base64.b64decode(text), "<u2").astype(np.float64)
    return np.where(steps == _UNDEFINED, np.nan, steps / (_UNDEFINED - 1))
