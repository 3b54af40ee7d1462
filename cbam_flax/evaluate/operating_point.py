"""The report's control with which a reader moves the operating point along the ROC curve.

The page holds the points of the curve as counts; `operating_point.js` does the arithmetic and shows
the control, which is hidden where scripts do not run.
"""

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sklearn.metrics

from cbam_flax.evaluate.html_page import text
from cbam_flax.evaluate.predict_split import Predictions, of_finding

POINTS = 200  # of a curve, at most


def curve(
    name: str, label: np.ndarray, probability: np.ndarray, threshold: float
) -> dict[str, Any]:
    """The ROC curve as counts, without ids.

    Args:
        label: (n,) of 0 and 1, both of them there.
        probability: (n,), calibrated.
        threshold: the operating point that the control starts at.

    Returns:
        `name`, `positive` and `negative` (images), `points` (rows of a threshold, and the true and
        false positives from it on, along falling thresholds; at most `POINTS`, where there are more
        evenly along the curve), and `start`, the number of the row whose threshold is `threshold`.
    """
    _, false, _, true, thresholds = sklearn.metrics.confusion_matrix_at_thresholds(
        label, probability
    )
    chosen = np.arange(len(thresholds))
    if len(chosen) >= POINTS:  # with the one that the control starts at
        along = true / true[-1] + false / false[-1]
        wanted = np.linspace(0, 2, POINTS - 1)
        chosen = np.unique(np.searchsorted(along, wanted).clip(max=len(along) - 1))
    points = [(float(thresholds[i]), int(true[i]), int(false[i])) for i in chosen]
    called = probability >= threshold
    at_start = (int(np.sum(called & (label == 1))), int(np.sum(called & (label == 0))))
    points = [point for point in points if point[1:] != at_start]
    points = sorted([*points, (threshold, *at_start)], reverse=True)
    return {
        "name": name,
        "positive": int(true[-1]),
        "negative": int(false[-1]),
        "start": points.index((threshold, *at_start)),
        "points": points,
    }


def curves(metrics: Mapping[str, Any], predictions: Predictions) -> list[dict[str, Any]]:
    """The `curve` of an evaluation, or of each finding that is judged; none of one class alone.

    Args:
        metrics: what metrics.json holds.
        predictions: these, `probability` calibrated.
    """
    if "findings" in metrics:
        found = {
            name: (of_finding(predictions, number), metrics["findings"][name])
            for number, name in enumerate(metrics["findings"])
            if name in metrics["mean"]["of"]
        }
    else:
        found = {"": (predictions, metrics)} if metrics["auroc"]["value"] is not None else {}
    return [
        curve(name, one["label"], one["probability"], judged["calibration"]["threshold"])
        for name, (one, judged) in found.items()
    ]


def section(curves: Sequence[dict[str, Any]], start: str) -> str:
    """The control, to be chosen from where there are several curves; nothing for none.

    Args:
        start: what the point is that it starts at.
    """
    if not curves:
        return ""
    options = "".join(f"<option>{text(each['name'])}" for each in curves)
    return (
        "<section id=operating-point hidden><h2>Move the operating point</h2>"
        f"<p>The control starts at {text(start)}. What it shows has no interval: it is the curve "
        "of these images. A threshold that is chosen on the images that judge the model looks "
        "better than it is on new ones; choose one on the validation split, with "
        "<code>--criterion</code>. PPV and NPV are by Bayes' rule from sensitivity, specificity "
        "and the prevalence.</p>"
        "<div class=grid><div>"
        f"<p{' hidden' * (len(curves) == 1)}><label>Finding <select>{options}</select></label></p>"
        "<p><label>Operating point, from few positive calls to many"
        "<input type=range min=0 step=1></label></p>"
        "<p><label>Prevalence in % <input type=number min=0 max=100 step=any required></label> "
        "<button type=button>Reset</button></p>"
        "<table aria-live=polite><tbody>"
        + "".join(
            f"<tr><th scope=row>{title}<td data-figure={name}>"
            for name, title in (
                ("threshold", "threshold on the calibrated probability"),
                ("sensitivity", "sensitivity"),
                ("specificity", "specificity"),
                ("ppv", "PPV"),
                ("npv", "NPV"),
            )
        )
        + "</table></div>"
        "<svg viewBox='-12 -4 116 116' role=img aria-label='ROC curve with the chosen point'>"
        "<path d='M0 0V100H100M0 100L100 0' class=axes></path><polyline></polyline>"
        "<circle r=2.5></circle><text x=50 y=109>1 - specificity</text>"
        "<text x=-50 y=-5 transform='rotate(-90)'>sensitivity</text></svg>"
        f"</div><script type='application/json'>{_json(list(curves))}</script>"
        f"<script>{_script()}</script></section>"
    )


def _json(value: Any) -> str:
    """JSON in which nothing can end the script element that it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


@functools.cache
def _script() -> str:
    return pathlib.Path(__file__).with_suffix(".js").read_text()
