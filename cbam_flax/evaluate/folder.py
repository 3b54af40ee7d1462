"""WORKDIR/evaluation/<name>: metrics.json, predictions.csv, report.html and the pictures."""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cbam_flax import provenance as provenance_lib
from cbam_flax.checkpoint import Restored
from cbam_flax.evaluate.predict_split import FURTHER_COLUMNS, Predictions
from cbam_flax.input_pipeline import Split
from data_prep.cli import UserError
from data_prep.text_files import read_json

COLUMNS = ("image_id", "patient_id", "label", "probability", "logit", *FURTHER_COLUMNS)
EVALUATE_AGAIN = "run cbam_flax.evaluate again"
NUMBERS = {"label": np.int64, "probability": np.float64, "logit": np.float64}


def write(
    folder: Any,
    metrics: Mapping[str, Any],
    predictions: Predictions,
    drawn: Mapping[str, bytes],
    page: str,
) -> None:
    """Writes everything beside `folder` (an epath.Path) and puts it in place when it is whole."""
    draft = folder.parent / f".{folder.name}.draft"
    if draft.exists():
        draft.rmtree()
    draft.mkdir(parents=True)
    (draft / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(zip(*(_cells(name, predictions[name]) for name in COLUMNS), strict=True))
    (draft / "predictions.csv").write_text(table.getvalue())
    for name, data in drawn.items():
        (draft / f"{name}.png").write_bytes(data)
    (draft / "report.html").write_text(page)
    if folder.exists():
        folder.rmtree()
    draft.rename(folder)


def read(folder: Any) -> tuple[dict[str, Any], Predictions]:
    """metrics.json and the columns of predictions.csv, numbers as numbers.

    Raises:
        UserError: there is no evaluation at this epath.Path, or one of its files is broken.
    """
    if not (folder / "metrics.json").exists():
        raise UserError(
            f"{folder} holds no evaluation; run python -m cbam_flax.evaluate "
            f"--workdir={folder.parent.parent} first"
        )
    metrics = read_json(folder / "metrics.json", EVALUATE_AGAIN)
    table = folder / "predictions.csv"
    try:
        text = table.read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        if not rows or any(None in row or None in row.values() for row in rows):
            raise ValueError("it is empty, or has a line that is too short or too long")
        columns = {
            name: np.array([row[name] for row in rows]).astype(NUMBERS.get(name, str))
            for name in COLUMNS
        }
        if not all(np.isfinite(columns[name]).all() for name in NUMBERS):
            raise ValueError("a number is not finite")
        if not (
            np.isin(columns["label"], (0, 1)) & (abs(columns["probability"] - 0.5) <= 0.5)
        ).all():
            raise ValueError("a label other than 0 and 1, or a probability out of range")
    except FileNotFoundError as error:
        raise UserError(f"{table} is missing; {EVALUATE_AGAIN}") from error
    except KeyError as error:
        raise UserError(f"{table} has no column {error}; {EVALUATE_AGAIN}") from error
    except (OverflowError, ValueError, csv.Error) as error:
        raise UserError(f"{table} cannot be read ({error}); {EVALUATE_AGAIN}") from error
    return metrics, columns


def check_metrics(metrics: dict[str, Any], path: Any) -> None:
    """Checks what other commands need of metrics.json.

    Args:
        path: where it was read, for the message.

    Raises:
        UserError: something is missing or of a wrong kind.
    """
    try:
        made = metrics["provenance"]
        fits = type(made["checkpoint_step"]) is int and type(made["config"]) is dict
        fits = fits and 0 <= metrics["threshold"] <= 1
    except (KeyError, TypeError):
        fits = False
    if not fits:
        raise UserError(
            f"{path} lacks its provenance or a threshold between 0 and 1; {EVALUATE_AGAIN}"
        )


def provenance(restored: Restored, split: Split) -> dict[str, Any]:
    """What the figures come from: checkpoint, config, data and code, as steps and fingerprints."""
    config = restored.config.to_dict()
    config.pop("data_dir")  # a path of one machine
    return {
        "checkpoint_step": restored.step,
        "config_sha256": provenance_lib.sha256_of_json(config),
        "trained_on": restored.fingerprint,
        "evaluated_on": split.fingerprint,
        "code": provenance_lib.code_fingerprint(),
        "config": config,
    }


def _cells(name: str, column: np.ndarray) -> list[str]:
    if name == "probability":
        return [f"{value:.8f}" for value in column]
    return ["" if value == "nan" else value for value in column.astype(str)]
