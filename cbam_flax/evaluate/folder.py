"""WORKDIR/evaluation/<name>: metrics.json, predictions.csv, report.html and the pictures."""

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cbam_flax import provenance as provenance_lib
from cbam_flax.checkpoint import Restored
from cbam_flax.evaluate import calibration, report
from cbam_flax.evaluate.calibration import Calibration
from cbam_flax.evaluate.findings import Calibrations
from cbam_flax.evaluate.predict_split import FURTHER_COLUMNS, Predictions
from cbam_flax.input_pipeline import Split
from data_prep.cli import UserError
from data_prep.files import csv_files, folders, unmarked_folder
from data_prep.files.text_files import read_json
from data_prep.manifest import NOT_LABELLED

COLUMNS = ("image_id", "patient_id", "label", "probability", "logit", *FURTHER_COLUMNS)
FURTHER = ("spread", "fold", "run")  # columns that only some predictions have
EVALUATE_AGAIN = "run cbam_flax.evaluate again, under another --name or with that moved away"
NUMBERS = {"label": np.int64, "probability": np.float64, "logit": np.float64}


def default_name(split: str, *, members: int = 1, tta: str | None = None) -> str:
    """Of the folder: `test`, or for what is not one plain run `ensemble-test`, `test-flip`."""
    return "ensemble-" * (members > 1) + split + (f"-{tta}" if tta else "")


def check(folder: Any, inputs: Iterable[Any] = ()) -> None:
    """Refuses a folder that `write` would refuse, before anything is computed.

    Args:
        folder: an epath.Path.
        inputs: folders that are read.

    Raises:
        UserError: as `folders.writing`.
    """
    folders.check(folder, inputs=inputs, **_output())


def write(
    folder: Any,
    metrics: Mapping[str, Any],
    predictions: Predictions,
    drawn: Mapping[str, bytes],
    page: str,
) -> None:
    """Puts everything into `folder`, an epath.Path, in place of an earlier evaluation.

    Raises:
        UserError: as `folders.writing`.
    """
    known = np.where(predictions["patient_known"], predictions["patient_id"], "")
    written = {**predictions, "patient_id": known}
    columns = (*COLUMNS, *(name for name in FURTHER if name in written))
    if "findings" in metrics:
        of_each = _by_finding(predictions, list(metrics["findings"]))
        columns = ("image_id", "patient_id", *of_each, *FURTHER_COLUMNS)
        written |= of_each
    rows = zip(*(_cells(name, written[name]) for name in columns), strict=True)
    with folders.writing(folder, **_output()) as draft:
        (draft / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        csv_files.write(draft / "predictions.csv", columns, rows)
        for name, data in drawn.items():
            (draft / f"{name}.png").write_bytes(data)
        (draft / "report.html").write_text(page)


def read(folder: Any) -> tuple[dict[str, Any], Predictions]:
    """metrics.json and the columns of predictions.csv, numbers as numbers.

    `patient_id` is "" where the patient is not known.

    Raises:
        UserError: there is no evaluation at this epath.Path, or one of its files is broken or was
            changed.
    """
    if not (folder / "metrics.json").exists():
        raise UserError(
            f"{folder} holds no evaluation; run python -m cbam_flax.evaluate "
            f"--workdir={folder.parent.parent} first"
        )
    metrics = read_metrics(folder)
    if "findings" in metrics:
        raise UserError(
            f"{folder} is of several findings; --compare and --pool take evaluations of one"
        )
    table = folder / "predictions.csv"
    rows = csv_files.read(table, COLUMNS, EVALUATE_AGAIN)
    try:
        if not rows:
            raise ValueError("it is empty")
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
    except (OverflowError, ValueError) as error:
        raise UserError(f"{table} is damaged ({error}); {EVALUATE_AGAIN}") from error
    if folders.was_changed(folder, table.name):  # a row less is a row that nobody would miss
        raise UserError(f"{table} was changed since it was written; {EVALUATE_AGAIN}")
    return metrics, columns


def read_metrics(folder: Any) -> dict[str, Any]:
    """metrics.json, with what other commands need of it checked.

    Raises:
        UserError: it is broken, was changed since it was written, or lacks something.
    """
    path = folder / "metrics.json"
    metrics = read_json(path, EVALUATE_AGAIN)
    if folders.was_changed(folder, path.name):
        raise UserError(f"{path} was changed since it was written; {EVALUATE_AGAIN}")
    try:
        made = metrics["provenance"]
        fits = type(made["checkpoint_step"]) is int and type(made["config"]) is dict
        judged = list(metrics.get("findings", {"": metrics}).values())
        fits = fits and bool(judged)
        fits = fits and all(0 <= each["threshold"] <= 1 for each in judged if each.get("n") != 0)
        fits = fits and type(metrics["data"]["split_scheme"]) is str
    except (AttributeError, KeyError, TypeError):
        fits = False
    if not fits:
        raise UserError(
            f"{path} lacks its provenance, its data or a threshold from 0 to 1; {EVALUATE_AGAIN}"
        )
    for each in judged:
        calibration.parse(each.get("calibration"), path)
    return metrics


def calibrations(
    workdir: Any, weights_sha256: str, tta: str | None = None
) -> dict[str, Calibration | Calibrations]:
    """By the name of the evaluation, the calibrations of a model with these very weights.

    What cannot be read is left out: it is fitted again.

    Args:
        workdir: an epath.Path.
        tta: of the evaluations, as `ensemble.Ensemble` has it.
    """
    found: dict[str, Calibration | Calibrations] = {}
    for path in sorted((workdir / "evaluation").glob("*/metrics.json")):
        try:
            metrics = read_metrics(path.parent)
        except UserError:
            continue
        made_by = (metrics["provenance"].get("weights_sha256"), metrics.get("tta"))
        if made_by != (weights_sha256, tta):
            continue
        if "findings" in metrics:
            of = {name: each["calibration"] for name, each in metrics["findings"].items()}
            of_each = {name: Calibration(**each) for name, each in of.items()}
            found[path.parent.name] = Calibrations(of_each)
        else:
            found[path.parent.name] = Calibration(**metrics["calibration"])
    return found


def provenance(restored: Restored, split: Split) -> dict[str, Any]:
    """What the figures come from: checkpoint, config, data and code, as steps and fingerprints."""
    config = restored.portable_config
    return {
        "checkpoint_step": restored.step,
        "weights_sha256": restored.weights_sha256,
        "config_sha256": provenance_lib.sha256_of_json(config),
        "trained_on": restored.fingerprint,
        "evaluated_on": split.fingerprint,
        "code": provenance_lib.code_fingerprint(),
        "config": config,
    }


def _output() -> dict[str, Any]:
    """What `folders.writing` is told of an evaluation."""
    pictures = (
        *report.CURVES,
        report.FOREST,
        report.FINDINGS,
        report.TRAINING,
        *report.RADIOGRAPHS,
    )
    names = ("predictions.csv", "report.html", *(f"{name}.png" for name, *_ in pictures))
    return {
        "command": "cbam_flax.evaluate",
        "index": "metrics.json",
        "outputs": names,
        "earlier": functools.partial(
            unmarked_folder.own_files,
            patterns=("metrics.json", *names),
            heads={
                "metrics.json": b'{\n "schema": 1,\n "dataset": ',
                "predictions.csv": b"image_id,patient_id,label,probability,logit,",
                "report.html": b"<!doctype html><html lang=en>",
            },
        ),
    }


def _by_finding(predictions: Predictions, findings: list[str]) -> Predictions:
    """`label:NAME`, `probability:NAME` and `logit:NAME` of each finding."""
    return {
        f"{name}:{finding}": predictions[name][:, number]
        for number, finding in enumerate(findings)
        for name in (*NUMBERS, "spread")
        if name in predictions
    }


def _cells(name: str, column: np.ndarray) -> list[Any]:
    """Numbers stay numbers, so that a negative logit is not taken for text."""
    kind, _, finding = name.partition(":")
    if kind in ("probability", "spread"):
        return [f"{value:.8f}" for value in column]
    if finding and kind == "label":
        return ["" if value == NOT_LABELLED else value for value in column]
    if np.issubdtype(column.dtype, np.number):
        return ["" if np.isnan(value) else value for value in column]
    return list(column.astype(str))
