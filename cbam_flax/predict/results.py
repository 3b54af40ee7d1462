"""What is written for one scored image: a line of predictions.csv, a picture, DICOM objects."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cbam_flax.predict import dicom_output, overlay, saliency
from cbam_flax.predict.reader import Decoded
from cbam_flax.predict.scores import Score, findings, scores
from data_prep import cli

COLUMNS = (
    "image_id",
    "path",
    "probability",
    "decision",
    "flags",
    "sop_instance_uid",
    "study_instance_uid",
    "series_instance_uid",
    "warnings",
)
SHOWN = 4  # findings on a picture
UIDS = ("sop_instance_uid", "study_instance_uid", "series_instance_uid")


@dataclasses.dataclass(frozen=True)
class Result:
    """What the model says of one image.

    Attributes:
        flags: what in its header puts the image out of scope; empty when in scope.
        probability: calibrated; (k,) where the bundle has several findings.
        spread: of an ensemble, the standard deviation of its members' probabilities, shaped alike.
        map: float32 (h, w) over the square that the model saw; None if no picture is wanted.
    """

    image: Decoded
    flags: list[str]
    probability: float | np.ndarray
    spread: float | np.ndarray | None = None
    map: np.ndarray | None = None


def columns(bundle: dict[str, Any]) -> tuple[str, ...]:
    """Of predictions.csv: `COLUMNS`, an ensemble's spread too; by finding if several."""
    spread = ("spread",) * bool(bundle.get("ensemble"))
    if not findings(bundle):
        return COLUMNS + spread
    each = [f"{column}:{name}" for name in findings(bundle) for column in COLUMNS[2:4]]
    spreads = [f"{column}:{name}" for column in spread for name in findings(bundle)]
    return (*COLUMNS[:2], *each, *COLUMNS[4:], *spreads)


def scores_of(result: Result, bundle: dict[str, Any]) -> Sequence[Score]:
    """The score of each finding."""
    return scores(bundle, result.probability, out_of_scope=bool(result.flags))


def score_line(result: Result, bundle: dict[str, Any]) -> str:
    """The score against its operating point, not a diagnosis; of several findings the highest."""
    found = scores_of(result, bundle)
    out_of_scope = f"out of scope: {' '.join(result.flags)}"
    sides = {True: "above", False: "below"}
    if len(found) == 1:
        [one] = found
        line = f"{one.finding} score {one.probability:.3f}"
        if one.decision is None:
            return f"{line}, {out_of_scope}"
        return f"{line}, {sides[one.decision]} the operating point {one.threshold:.3f}"
    highest = sorted(found, key=lambda one: -one.probability)[:SHOWN]
    points = (
        "" if one.decision is None else f" ({sides[one.decision]} {one.threshold:.3f})"
        for one in highest
    )
    each = [
        f"{one.finding} {one.probability:.3f}{point}"
        for one, point in zip(highest, points, strict=True)
    ]
    each += [out_of_scope] * bool(result.flags)
    return f"scores of {len(found)} findings: {', '.join(each)}"


def map_line(result: Result, bundle: dict[str, Any], method: str) -> str:
    """Which map is shown and what it is worth, or why there is none to see."""
    assert result.map is not None
    if method == "gate" and result.map.size == 1:
        return "no map: this model has no spatial gate"
    if not np.ptp(result.map):
        return f"no map: {saliency.BLANK[method]}"
    found = scores_of(result, bundle)
    highest = max(found, key=lambda one: one.probability)
    of = f" of {highest.finding}" if len(found) > 1 and method != "gate" else ""
    merit = saliency.merit(bundle, method)
    what = f"{saliency.TITLES[method]}{of} ({saliency.UNITS[method]}, scaled to this image)"
    return f"map: {what}; {merit}"


def warning_words(result: Result, bundle: dict[str, Any]) -> list[str]:
    """What makes the prediction doubtful, a word each: LEAK, SHORTCUT, SMALL, SYNTHETIC, ...

    The bundle's warnings, in full in its `warnings`; whether the image itself is a drawing; and
    whether its file has no header, so that nobody knows if the image is in scope.
    """
    words = [text.partition(":")[0] for text in bundle.get("warnings", ())]
    words = [word for word in words if word.isupper()]
    if findings(bundle):  # several can have the same
        words = list(dict.fromkeys(words))
    if result.image.header["synthetic_data"].upper() == "YES":
        words.append("SYNTHETIC IMAGE")
    if result.image.header["format"] != "dicom":
        words.append("NO HEADER")
    return words


def row(result: Result, bundle: dict[str, Any]) -> tuple[Any, ...]:
    """The line of predictions.csv, in the order of `columns`."""
    each = [(f"{one.probability:.8g}", one.text) for one in scores_of(result, bundle)]
    spread: Any = () if result.spread is None else np.atleast_1d(result.spread)
    return (
        result.image.source.image_id,
        str(result.image.source.path),
        *(cell for cells in each for cell in cells),
        ";".join(result.flags),
        *(result.image.header[uid] for uid in UIDS),
        ";".join(warning_words(result, bundle)),
        *(f"{value:.8g}" for value in spread),
    )


def write_pictures(
    result: Result,
    bundle: dict[str, Any],
    method: str,
    *,
    overlays: pathlib.Path | None,
    dicom: pathlib.Path | None,
) -> bool:
    """Writes the overlay as PNG and as DICOM with its report, into the folders that are given.

    Args:
        method: of the result's map.

    Returns:
        False when DICOM was wanted but the header has no identifiers to refer to.
    """
    assert result.image.panel is not None
    assert result.map is not None
    lines = [
        result.image.source.image_id,
        score_line(result, bundle),
        map_line(result, bundle, method),
    ]
    if words := warning_words(result, bundle):
        lines.append(f"warnings: {', '.join(words)}")
    picture = overlay.draw(result.image.panel, result.map, result.image.box, lines)
    if overlays:
        path = overlays / f"{result.image.source.image_id}.png"
        with cli.naming(path):
            path.write_bytes(overlay.encode_png(picture))
    if not dicom:
        return True
    if not dicom_output.has_references(result.image.header):
        return False
    source = dicom_output.source_dataset(result.image.header)
    objects = {
        "sc": dicom_output.secondary_capture(source, picture, bundle),
        "sr": dicom_output.structured_report(
            source, scores_of(result, bundle), result.flags, bundle
        ),
    }
    for kind, dataset in objects.items():
        path = dicom / f"{result.image.source.image_id}-{kind}.dcm"
        with cli.naming(path):
            dataset.save_as(path, enforce_file_format=True)
    return True
