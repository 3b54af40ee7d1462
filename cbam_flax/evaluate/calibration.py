"""From logits to probabilities and decisions: fitted on validation, applied everywhere else.

Every evaluation folder holds its own, in metrics.json. Nothing here ever sees a test label: what is
fitted is a function of the validation predictions alone.
"""

import dataclasses
import re
from typing import Any

import numpy as np
import scipy.optimize
import scipy.special
import sklearn.metrics

from cbam_flax.evaluate import bootstrap, statistics
from data_prep.cli import UserError

MIN_SCALE = 0.01  # above zero, so that calibration never reorders images
MEASURES = {"brier": "Brier score", "ece": "calibration error (ECE)"}
_KINDS: dict[Any, tuple[type, ...]] = {float: (int, float), int: (int,), str: (str,)}
NOT_FITTED = "fixed"  # the criterion where the images are all of one class
CRITERIA = "youden, sensitivity=X or specificity=X with X in (0, 1]"


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Platt's line through the logits and the operating point.

    Attributes:
        scale, bias: probability = sigmoid(scale * logit + bias).
        threshold: on the calibrated probability; positive from there on.
        criterion: how the threshold was chosen, as `fit` takes it.
        step: of the checkpoint whose logits these were.
        split: what it was fitted on.
        n, n_positive: images it was fitted on.
        before, after: `MEASURES` of these images without and with the calibration; None where an
            older version fitted it.
    """

    scale: float
    bias: float
    threshold: float
    criterion: str
    step: int
    split: str
    n: int
    n_positive: int
    before: dict[str, float] | None = None
    after: dict[str, float] | None = None

    def probability(self, logit: np.ndarray) -> np.ndarray:
        """Calibrated probability of logits, float64 of the same shape."""
        return scipy.special.expit(self.scale * np.asarray(logit, np.float64) + self.bias)


def parse(values: Any, path: Any) -> Calibration:
    """A calibration as `dataclasses.asdict` and JSON have left it.

    Args:
        path: where it was read, for the message.

    Raises:
        UserError: a value is missing, of a wrong kind or out of range.
    """
    mend = "run cbam_flax.evaluate again under another --name"
    try:
        for field in dataclasses.fields(Calibration):
            value = values.get(field.name)
            if type(value) not in _KINDS.get(field.type, (dict, type(None))):
                raise ValueError(f"{field.name} is {value!r}")
        fitted = Calibration(**values)
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no calibration ({error}); {mend}") from error
    if not (0 < fitted.scale < np.inf and np.isfinite(fitted.bias) and 0 <= fitted.threshold <= 1):
        raise UserError(f"{path} has a scale, bias or threshold out of range; {mend}")
    return fitted


def fit(
    predictions: dict[str, np.ndarray], criterion: str, *, step: int, split: str
) -> Calibration:
    """Platt's scaling and the threshold that `criterion` picks, from these predictions.

    Raises:
        UserError: one class only, or an unknown criterion.
    """
    logit, label = predictions["logit"], predictions["label"]
    if not 0 < label.sum() < label.size:
        raise UserError(
            f"the {split} split holds one class only, so nothing can be calibrated on it; "
            f"prepare a larger one"
        )
    scale, bias = platt(logit, label)
    fitted = Calibration(
        scale, bias, 0.5, criterion, step, split, int(label.size), int(label.sum())
    )
    probability = fitted.probability(logit)
    return dataclasses.replace(
        fitted,
        threshold=operating_point(label, probability, criterion),
        before=_measures(label, scipy.special.expit(logit)),
        after=_measures(label, probability),
    )


def _measures(label: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    found = statistics.figures(label, probability, 0.5)
    return {name: round(float(found[name]), bootstrap.DECIMALS) for name in MEASURES}


def platt(logit: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Scale and bias that maximise the likelihood (Platt 1999, Probabilistic outputs for SVMs).

    The targets are Platt's, (n1 + 1)/(n1 + 2) and 1/(n0 + 2), so that the fit stays finite where
    the logits separate the classes. The scale is kept above zero.
    """
    positive, negative = label.sum(), label.size - label.sum()
    target = np.where(label == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        z = line[0] * logit + line[1]
        residual = scipy.special.expit(z) - target
        gradient = np.array([np.mean(residual * logit), np.mean(residual)])
        return np.mean(np.logaddexp(0, z) - target * z), gradient

    bounds = [(MIN_SCALE, None), (None, None)]
    line = scipy.optimize.minimize(loss, [1.0, 0.0], jac=True, bounds=bounds, tol=1e-12).x
    return round(float(line[0]), 6), round(float(line[1]), 6)


def operating_point(label: np.ndarray, probability: np.ndarray, criterion: str) -> float:
    """A threshold midway between two neighbouring scores, as `criterion` wants it.

    `youden` maximises sensitivity + specificity - 1. `sensitivity=0.95` is the highest threshold
    that finds at least 95 % of the positives, `specificity=0.9` the lowest that clears at least
    90 % of the negatives.
    """
    kind, wanted = parse_criterion(criterion)
    false, sensitivity, thresholds = sklearn.metrics.roc_curve(
        label, probability, drop_intermediate=False
    )
    if kind == "youden":
        chosen = int(np.argmax(sensitivity - false))
    elif kind == "sensitivity":
        chosen = int(np.argmax(sensitivity >= wanted))
    else:
        chosen = int(np.flatnonzero(1 - false >= wanted)[-1])
    # roc_curve's thresholds fall and begin with infinity, which calls nothing positive.
    above = min(1.0, thresholds[chosen])
    below = thresholds[chosen + 1] if chosen + 1 < len(thresholds) else 0.0
    return float((above + below) / 2)


def parse_criterion(criterion: str) -> tuple[str, float]:
    """`"sensitivity=0.95"` -> ("sensitivity", 0.95).

    Raises:
        UserError: it is none of `CRITERIA`.
    """
    match = re.fullmatch(r"(youden)|(sensitivity|specificity)=(1|1\.0*|0?\.\d+)", criterion)
    if not match or (match[3] and not float(match[3]) > 0):
        raise UserError(f"criterion {criterion!r} is unknown; it must be {CRITERIA}")
    return (match[2], float(match[3])) if match[2] else ("youden", 0.0)
