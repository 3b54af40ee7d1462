"""The scores of one image, one for each finding, against the operating points of a bundle."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Score(NamedTuple):
    """What the model says of one finding.

    Attributes:
        labels: the words for its absence and its presence.
        probability: calibrated.
        threshold: the operating point.
        decision: whether the probability reaches it; None when the image is out of scope.
    """

    labels: tuple[str, str]
    probability: float
    threshold: float
    decision: bool | None

    @property
    def finding(self) -> str:
        return self.labels[1]

    @property
    def text(self) -> str:
        """The decision in words."""
        return "out of scope" if self.decision is None else self.labels[int(self.decision)]


def findings(bundle: dict[str, Any]) -> list[str]:
    """The names of several findings; empty for a bundle of one, which has `labels`."""
    return bundle.get("findings", [])


def scores(
    bundle: dict[str, Any], probability: float | np.ndarray, out_of_scope: bool
) -> Sequence[Score]:
    """One score for each finding, in the bundle's order.

    Args:
        probability: calibrated, (k,) where the bundle has several findings.
    """
    points, names = bundle["operating_point"], findings(bundle)
    if not names:
        labels = [tuple(bundle["labels"])]
        thresholds = [points["threshold"]]
    else:
        labels = [(f"no {name}", name) for name in names]
        thresholds = [points[name]["threshold"] for name in names]
    found = map(float, np.atleast_1d(probability))
    return [
        Score(words, each, threshold, None if out_of_scope else each >= threshold)
        for words, each, threshold in zip(labels, found, thresholds, strict=True)
    ]
