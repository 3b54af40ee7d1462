"""The metrics of a binary classifier, plain and weighted.

scikit-learn gives the plain metrics; the bootstrap needs the weighted versions, which work on many
resamples at once. Everything is float64.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import sklearn.metrics
from numpy.typing import ArrayLike

from cbam_flax.evaluate import bootstrap
from cbam_flax.evaluate.bootstrap import Interval, Statistic, Weights

ECE_BINS = 15
RANKING = ("auroc", "average_precision")
ERRORS = ("brier", "log_loss", "ece")
DECISIONS = ("sensitivity", "specificity", "ppv", "npv", "f1", "accuracy")
FIGURES = RANKING + ERRORS + DECISIONS


def figures(
    label: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    score: np.ndarray | None = None,
) -> dict[str, float]:
    """The usual metrics of probabilities (n,) against labels (n,) in {0, 1}.

    An image is called positive where `probability >= threshold`. A metric that is
    undefined (AUROC of one class, PPV without a positive call) is nan.

    Args:
        score: what AUROC and average precision rank the images by, where it is finer than the
            probability: extreme logits differ where their probabilities are both 1.
    """
    label = np.asarray(label, np.int64)
    probability = np.asarray(probability, np.float64)
    score = probability if score is None else score
    both_classes = 0 < label.sum() < label.size
    called = (probability >= threshold).astype(np.int64)
    tn, fp, fn, tp = sklearn.metrics.confusion_matrix(label, called, labels=[0, 1]).ravel()
    return {
        "auroc": sklearn.metrics.roc_auc_score(label, score) if both_classes else np.nan,
        "average_precision": (
            sklearn.metrics.average_precision_score(label, score) if label.any() else np.nan
        ),
        "brier": np.mean((probability - label) ** 2) if label.size else np.nan,
        "log_loss": (
            sklearn.metrics.log_loss(label, probability, labels=[0, 1]) if label.size else np.nan
        ),
        "ece": expected_calibration_error(label, probability),
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "ppv": _ratio(tp, tp + fp),
        "npv": _ratio(tn, tn + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "accuracy": _ratio(tp + tn, label.size),
    }


def expected_calibration_error(label: np.ndarray, probability: np.ndarray) -> float:
    """Mean |observed - predicted| over 15 equal-width bins (Guo et al. 2017, equation 3)."""
    gap = np.bincount(_bins(probability), weights=probability - label, minlength=ECE_BINS)
    return _ratio(np.abs(gap).sum(), label.size)


def figures_statistic(
    label: np.ndarray,
    probability: np.ndarray,
    threshold: float | np.ndarray,
    score: np.ndarray | None = None,
    names: Collection[str] = FIGURES,
) -> Statistic:
    """`figures` as a statistic of weights (r, n); equal to scikit-learn's `sample_weight`.

    The threshold may be one for each image.

    Args:
        names: the figures that are needed; others may be among the result.
    """
    makers = {
        RANKING: lambda: _ranking_statistic(label, probability if score is None else score),
        ERRORS: lambda: _error_statistic(label, probability),
        DECISIONS: lambda: _decision_statistic(label, probability >= threshold),
    }
    parts = [make() for of, make in makers.items() if not set(of).isdisjoint(names)]
    return lambda weights: {k: v for part in parts for k, v in part(weights).items()}


def _ranking_statistic(label: np.ndarray, score: np.ndarray) -> Statistic:
    curve = curve_statistic(label, score)

    def statistic(weights: Weights) -> dict[str, np.ndarray]:
        true, false = curve(weights)
        found = np.diff(true, axis=1, prepend=0) * _ratio(true, true + false)
        return {
            "auroc": _area(true, false),
            "average_precision": _ratio(np.nansum(found, axis=1), true[:, -1]),
        }

    return statistic


def _error_statistic(label: np.ndarray, probability: np.ndarray) -> Statistic:
    gap = probability - label
    clipped = np.clip(probability, np.finfo(float).eps, 1 - np.finfo(float).eps)
    losses = np.stack([gap**2, -np.where(label == 1, np.log(clipped), np.log1p(-clipped))], axis=1)
    bins = _bins(probability)

    def statistic(weights: Weights) -> dict[str, np.ndarray]:
        total = weights.sum(axis=1)
        squares, logs = (weights @ losses).T
        by_bin = [np.bincount(bins, weights=row * gap, minlength=ECE_BINS) for row in weights]
        return {
            "brier": _ratio(squares, total),
            "log_loss": _ratio(logs, total),
            "ece": _ratio(np.abs(by_bin).sum(axis=1), total),
        }

    return statistic


def _decision_statistic(label: np.ndarray, called: np.ndarray) -> Statistic:
    cells = np.stack([label * called, (1 - label) * called, label * ~called], axis=1) * 1.0

    def statistic(weights: Weights) -> dict[str, np.ndarray]:
        total = weights.sum(axis=1)
        tp, fp, fn = (weights @ cells).T
        tn = total - tp - fp - fn
        return {
            "sensitivity": _ratio(tp, tp + fn),
            "specificity": _ratio(tn, tn + fp),
            "ppv": _ratio(tp, tp + fp),
            "npv": _ratio(tn, tn + fn),
            "f1": _ratio(2 * tp, 2 * tp + fp + fn),
            "accuracy": _ratio(tp + tn, total),
        }

    return statistic


def auroc_statistic(label: np.ndarray, scores: Mapping[str, np.ndarray]) -> Statistic:
    """The AUROC of several scores (n,) of the same images, by name: for paired differences."""
    curves = {name: curve_statistic(label, score) for name, score in scores.items()}
    return lambda weights: {name: _area(*curve(weights)) for name, curve in curves.items()}


def curve_statistic(
    label: np.ndarray, score: np.ndarray
) -> Callable[[Weights], tuple[np.ndarray, np.ndarray]]:
    """Weights (r, n) -> weighted true and false positives (r, g), falling over the g distinct
    scores: sorted once here, then only sums for each resample."""
    order = np.argsort(-score, kind="stable")
    # Of equal scores the last one: there all of them have been counted.
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))
    positive = label[order]

    def curve(weights: Weights) -> tuple[np.ndarray, np.ndarray]:
        ordered = weights[:, order]
        called = ordered.cumsum(axis=1)
        true = np.multiply(ordered, positive, out=ordered).cumsum(axis=1)
        if last.size < order.size:
            called, true = called[:, last], true[:, last]
        return true, called - true

    return curve


def figures_with_intervals(
    label: np.ndarray,
    probability: np.ndarray,
    patient_id: np.ndarray,
    threshold: float,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
    score: np.ndarray | None = None,
    names: Collection[str] = FIGURES,
) -> dict[str, Interval]:
    """The figures of `figures` with these names, each with its interval over patients."""
    samples = bootstrap.resample(
        figures_statistic(label, probability, threshold, score, names), patient_id, resamples, seed
    )
    values = figures(label, probability, threshold, score)
    if "ece" in names:
        # Resampling inflates ECE as much as sampling did, so its resamples say how far off the
        # metric may be, but not in which direction: both are used.
        ece = samples["ece"]
        samples["ece"] = np.append(ece, np.maximum(0, 2 * values["ece"] - ece))
    patients = patients_behind(label, probability >= threshold, patient_id)
    return {
        name: bootstrap.share_interval(values[name], samples[name], patients[name])
        for name in names
    }


def patients_behind(
    label: np.ndarray, called: np.ndarray, patient_id: np.ndarray
) -> dict[str, int]:
    """How many patients each metric is based on.

    For metrics that compare the classes it is the smaller class: m positive and m negative
    patients hold m independent pairs.
    """
    count = {
        "sensitivity": label == 1,
        "specificity": label == 0,
        "ppv": called,
        "npv": ~called,
    }
    behind = {name: len(np.unique(patient_id[mask])) for name, mask in count.items()}
    fewer = min(behind["sensitivity"], behind["specificity"])
    every = len(np.unique(patient_id))
    return (
        behind
        | dict.fromkeys(("auroc", "average_precision", "f1"), fewer)
        | dict.fromkeys(("brier", "log_loss", "ece", "accuracy"), every)
    )


def predictive_values(
    sensitivity: np.ndarray, specificity: np.ndarray, prevalence: float
) -> tuple[np.ndarray, np.ndarray]:
    """PPV and NPV by Bayes' rule at another prevalence, sensitivity and specificity unchanged."""
    found, missed = sensitivity * prevalence, (1 - sensitivity) * prevalence
    cleared, alarmed = specificity * (1 - prevalence), (1 - specificity) * (1 - prevalence)
    return _ratio(found, found + alarmed), _ratio(cleared, cleared + missed)


def exact_predictive_value(
    own: Mapping[str, Any], other: Mapping[str, Any], odds: float
) -> Interval:
    """The interval of a PPV or NPV that is exactly 0 or 1, so that no resample differs.

    It is 1 / (1 + odds * wrong / right), of which one rate is zero. That rate's exact limit
    (`bootstrap.exact_interval`) and the other's limits, from other images, give the limit of their
    ratio: high / sqrt(low * (2 * value - low)) (Newcombe 2016, MOVER-R confidence intervals for
    ratios and products of two independently estimated quantities).

    Args:
        own, other: for PPV sensitivity and specificity, for NPV specificity and sensitivity, with
            their intervals. The right rate is `own`, the wrong one 1 - `other`.
        odds: of the other class against the one that is called.
    """
    wrong = {"value": 1 - other["value"], "low": 1 - other["high"], "high": 1 - other["low"]}
    zero, rate = (wrong, own) if wrong["value"] == 0 else (own, wrong)
    ratio = _ratio(zero["high"], np.sqrt(rate["low"] * (2 * rate["value"] - rate["low"])))
    if zero is wrong:
        return bootstrap.rounded(1, 1 / (1 + odds * ratio), 1)
    return bootstrap.rounded(0, 0, 1 / (1 + odds / ratio))


def _area(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Area under ROC curves given as counts (r, g) along falling thresholds, by trapezoids."""
    steps = np.diff(true, axis=1, prepend=0)
    false_before = false - np.diff(false, axis=1, prepend=0)
    concordant = (steps * (false[:, -1:] - (false + false_before) / 2)).sum(axis=1)
    return _ratio(concordant, true[:, -1] * false[:, -1])


def _bins(probability: np.ndarray) -> np.ndarray:
    return np.minimum((np.asarray(probability) * ECE_BINS).astype(np.int64), ECE_BINS - 1)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.true_divide(numerator, denominator)
