"""Several findings: each judged on the images that are labelled for it, and their mean.

One finding is judged by `analysis.analyse` alone; here that is called once for each.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cbam_flax.evaluate import analysis, bootstrap, calibration, patients, statistics
from cbam_flax.evaluate.calibration import NOT_FITTED, Calibration
from cbam_flax.evaluate.predict_split import Predictions, of_finding
from cbam_flax.folds import Rows
from cbam_flax.input_pipeline import Split
from cbam_flax.labels import has_both_classes
from data_prep.cli import UserError
from data_prep.manifest import NOT_LABELLED

Columns = Mapping[str, np.ndarray]

SHORTER = {  # what `analysis.warnings_of_figures` says, of several findings at once
    "SHORTCUT": "the model is not clearly better than a baseline that never sees the image.",
    "CALIBRATION": "calibration made the Brier score or the calibration error worse.",
    "SMALL": f"fewer than {analysis.SMALL} positive or negative images; the intervals are wide and "
    f"approximate.",
}


@dataclasses.dataclass(frozen=True)
class Calibrations:
    """The calibration and operating point of each finding, by name, in their order."""

    of: dict[str, Calibration]

    @property
    def criterion(self) -> str:
        """Of the operating points that were fitted."""
        criteria = {each.criterion for each in self.of.values()} - {NOT_FITTED}
        return criteria.pop() if criteria else NOT_FITTED

    def probability(self, logit: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of logits (n, k), float64 of the same shape."""
        columns = zip(self.of.values(), logit.T, strict=True)
        return np.stack([each.probability(column) for each, column in columns], axis=1)


def fit(
    predictions: Predictions, findings: Sequence[str], criterion: str, *, step: int, split: str
) -> Calibration | Calibrations:
    """`calibration.fit`, for each of several findings on the images labelled for it.

    A finding of which these images are all of one class keeps its probabilities as they are, and
    the threshold 0.5.

    Raises:
        UserError: as `calibration.fit` for one finding.
    """
    if len(findings) == 1:
        return calibration.fit(predictions, criterion, step=step, split=split)
    fitted = {}
    for number, name in enumerate(findings):
        one = of_finding(predictions, number)
        label = one["label"]
        if 0 < label.sum() < label.size:
            fitted[name] = calibration.fit(one, criterion, step=step, split=split)
        else:
            counts = (int(label.size), int(label.sum()))
            fitted[name] = Calibration(1.0, 0.0, 0.5, NOT_FITTED, step, split, *counts)
    return Calibrations(fitted)


def align(split: Split, findings: Sequence[str]) -> Split:
    """The split with its labels in the order of a model's findings, found by their names.

    A finding that the data do not have is not labelled. Where model and data both have one
    finding, the labels are taken as they are, and `other_name` says where the names differ. Of
    several findings nobody knows which one a box is of, so one alone has no boxes.

    Raises:
        UserError: the data have none of the findings, or no image is labelled for one.
    """
    if split.findings == tuple(findings) or len(split.findings) == len(findings) == 1:
        return split
    there = {name.casefold(): number for number, name in enumerate(split.findings)}
    found = [there.get(name.casefold()) for name in findings]
    if all(number is None for number in found):
        raise UserError(
            f"{split.manifest['dataset']} has labels of {', '.join(split.findings)} and the model "
            f"was trained on {', '.join(findings)}; give data that have one of these"
        )
    labels = split.labels.reshape(len(split), -1)
    missing = np.full(len(split), NOT_LABELLED, np.int32)
    label = np.stack([missing if n is None else labels[:, n] for n in found], axis=1)
    manifest = split.manifest | {"findings": list(findings)}
    if (label == NOT_LABELLED).all():
        raise UserError(
            f"no image of the {split.name} split of {split.manifest['dataset']} is labelled for "
            f"{', '.join(findings)}; evaluate another split or other data"
        )
    if len(findings) > 1:
        columns = split.columns | {"label": label}
        return dataclasses.replace(split, columns=columns, manifest=manifest)
    keep = label[:, 0] != NOT_LABELLED
    columns = {name: column[keep] for name, column in split.columns.items()}
    columns["label"] = label[keep, 0]
    columns["boxes"] = np.empty(keep.sum(), object)
    columns["boxes"][:] = [np.zeros((0, 4), np.float32)] * keep.sum()
    images: Any = Rows([split.images], np.flatnonzero(keep))  # which stay on the disk
    return dataclasses.replace(split, columns=columns, images=images, manifest=manifest)


def other_name(split: Split, findings: Sequence[str]) -> list[str]:
    """A warning where a model's one finding has another name than that of the labels."""
    [trained, *others], judged = findings, split.findings[0]
    if others or trained.casefold() == judged.casefold():
        return []
    return [f"FINDING: the model was trained on {trained} and is judged by labels of {judged}."]


def analyse(
    predictions: Columns,
    fitted: Calibrations,
    train: Columns | None,
    *,
    prevalences: Sequence[float] = analysis.PREVALENCES,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """What `analysis.analyse` says of each finding, and the means over findings, as plain JSON.

    Args:
        predictions: as `evaluate.predict_split` gives them, `probability` already calibrated.
        train: columns of the training split, for the baselines; None if not available.

    Returns:
        `findings`: for each `n`, `n_positive`, `calibration` and, where an image is labelled, what
        `analysis.analyse` gives; `mean`: of the findings in its `of`, as `mean_figures` gives it.
    """
    found: dict[str, Any] = {}
    for number, (name, each) in enumerate(fitted.of.items()):
        one = of_finding(dict(predictions), number)
        found[name] = {"n": 0, "n_positive": 0}
        if one["label"].size:
            own = train and of_finding(dict(train), number)
            draws: dict[str, Any] = {"prevalences": prevalences, "resamples": resamples}
            found[name] = analysis.analyse(one, each, own, seed=seed, **draws)
            found[name].pop("overlap")  # of all images, below
        found[name]["calibration"] = dataclasses.asdict(each)
    thresholds = [each.threshold for each in fitted.of.values()]
    return {
        "n": len(predictions["image_id"]),
        **patients.count(predictions),
        "findings": found,
        "mean": mean_figures(predictions, list(fitted.of), thresholds, resamples, seed),
        "overlap": patients.overlap(train, predictions) if train is not None else None,
        "bootstrap": {
            "unit": patients.resampling_unit(predictions),
            "level": bootstrap.LEVEL,
            "resamples": resamples,
            "seed": seed,
        },
    }


def mean_figures(
    predictions: Columns,
    names: Sequence[str],
    thresholds: Sequence[float],
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The mean of each figure over the findings of which both classes are there.

    A resample of the patients gives the figures of all findings, and so their mean: the findings
    stay paired. Student's t in the intervals has the degrees of freedom of Welch and Satterthwaite
    for a mean of independent figures.

    Returns:
        `of`, the names of these findings, and each figure with its interval, undefined where it is
        for one of them.
    """
    judged = np.flatnonzero(has_both_classes(predictions["label"])).tolist()
    if not judged:
        return {"of": []}
    masks, ones = [], []
    for number in judged:
        masks.append(predictions["label"][:, number] != NOT_LABELLED)
        ones.append(of_finding(dict(predictions), number))
    cuts = [thresholds[number] for number in judged]
    statistics_of = [
        statistics.figures_statistic(one["label"], one["probability"], cut, score=one["logit"])
        for one, cut in zip(ones, cuts, strict=True)
    ]

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        """(r, n) -> each figure (r, findings)."""
        found = [of(weights[:, mask]) for of, mask in zip(statistics_of, masks, strict=True)]
        return {name: np.stack([each[name] for each in found], axis=1) for name in found[0]}

    observed = figures(np.ones((1, len(predictions["image_id"]))))
    samples = bootstrap.resample(figures, predictions["patient_id"], resamples, seed)
    behind = [
        statistics.patients_behind(one["label"], one["probability"] >= cut, one["patient_id"])
        for one, cut in zip(ones, cuts, strict=True)
    ]
    means: dict[str, Any] = {"of": [names[number] for number in judged]}
    for name, values in observed.items():
        value, drawn = float(values.mean()), samples[name].mean(axis=1)
        if name == "ece":  # as in `statistics.figures_with_intervals`
            drawn = np.append(drawn, np.maximum(0, 2 * value - drawn))
        m = _patients_behind_mean(samples[name], [each[name] for each in behind])
        means[name] = bootstrap.share_interval(value, drawn, m)
    return means


def _patients_behind_mean(samples: np.ndarray, behind: Sequence[int]) -> int:
    """How many patients give the degrees of freedom of a mean over findings.

    Args:
        samples: a figure on resamples, (r, findings).
        behind: patients of each finding.
    """
    defined = samples[np.isfinite(samples).all(axis=1)]
    variance = defined.var(axis=0) if len(defined) else np.zeros(1)
    if not variance.any():
        return min(behind)
    freedom = np.maximum(np.asarray(behind) - 1, 1)
    return 1 + round(float(variance.sum() ** 2 / (variance**2 / freedom).sum()))


def warnings(metrics: Mapping[str, Any]) -> list[str]:
    """Warnings about all images, then of each kind one that names its findings."""
    found = analysis.warnings_of_data(metrics)
    left_out = [name for name in metrics["findings"] if name not in metrics["mean"]["of"]]
    if left_out:
        found.append(
            f"NOT JUDGED: {', '.join(left_out)}: the labelled images are all of one class, or "
            f"there are none. The mean is over the other findings."
        )
    by_kind: dict[str, dict[str, list[str]]] = {}
    for name in metrics["mean"]["of"]:
        each = metrics["findings"][name]
        fitted = each["calibration"]
        if fitted["criterion"] == NOT_FITTED:
            found.append(
                f"UNCALIBRATED: {name}: the labelled images of the {fitted['split']} split are all "
                f"of one class, so its threshold is 0.5."
            )
        for text in analysis.warnings_of_figures({**metrics, **each}):
            kind, _, rest = text.partition(": ")
            by_kind.setdefault(kind, {}).setdefault(name, []).append(rest)
    for kind, texts in by_kind.items():
        # The figures of one finding fit into a sentence; those of several are in the report.
        text = SHORTER[kind] if len(texts) > 1 else " ".join(next(iter(texts.values())))
        found.append(f"{kind}: {', '.join(texts)}: {text}")
    return found + analysis.warnings_of_selection(metrics)
