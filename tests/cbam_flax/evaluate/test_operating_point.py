import html.parser
import json
import pathlib
import re

import numpy as np
import pytest
from sklearn.metrics import auc, confusion_matrix, roc_curve

from cbam_flax.evaluate import operating_point


def counts(label, probability, threshold):
    _, fp, _, tp = confusion_matrix(label, probability >= threshold).ravel()
    return tp, fp


@pytest.mark.parametrize("threshold", [0.3, 0.0, 1.1])
def test_every_point_is_what_its_threshold_calls(make_predictions, threshold):
    found = make_predictions(180)
    label, probability = found["label"], np.round(found["probability"], 3)  # with ties
    curve = operating_point.curve("", label, probability, threshold)
    for at, *called in curve["points"]:
        assert tuple(called) == counts(label, probability, at)
    thresholds = [at for at, *_ in curve["points"]]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[curve["start"]] == threshold
    # All of scikit-learn's points, but the one that calls nothing.
    false, true, _ = roc_curve(label, probability, drop_intermediate=False)
    there = {tuple(called) for _, *called in curve["points"]}
    wanted = set(zip((60 * true).round(), (120 * false).round(), strict=True)) - {(0, 0)}
    assert there - {(0, 0)} == wanted
    assert (curve["positive"], curve["negative"]) == (60, 120)


def test_a_long_curve_is_thinned_evenly_and_stays_the_same_curve(make_predictions):
    found = make_predictions(5000)
    label, probability = found["label"], found["probability"]
    curve = operating_point.curve("", label, probability, 0.3)
    points = np.array(curve["points"])
    assert 190 < len(points) <= operating_point.POINTS
    assert tuple(points[curve["start"]][1:]) == counts(label, probability, 0.3)
    true, false = points[:, 1] / curve["positive"], points[:, 2] / curve["negative"]
    assert (true[-1], false[-1]) == (1, 1)
    assert np.diff(true + false, prepend=0).max() < 0.015
    whole = auc(*roc_curve(label, probability)[:2])
    assert auc([0, *false], [0, *true]) == pytest.approx(whole, abs=1e-3)


def test_an_evaluation_has_a_curve_for_each_finding_that_is_judged(make_predictions):
    first = make_predictions(60)
    label = np.stack([first["label"], first["label"], np.zeros(60, int)], axis=1)
    label[:3, 1] = -1  # not labelled
    both = np.stack([first["probability"]] * 3, axis=1)
    several = first | {"label": label, "probability": both, "logit": both}
    fitted = {"calibration": {"threshold": 0.25}}
    metrics = {"findings": dict.fromkeys("abc", fitted), "mean": {"of": ["a", "b"]}}
    curves = operating_point.curves(metrics, several)
    assert [each["name"] for each in curves] == ["a", "b"]
    assert [each["positive"] + each["negative"] for each in curves] == [60, 57]
    [alone] = operating_point.curves({"auroc": {"value": 0.7}, **fitted}, first)
    assert alone["points"] == curves[0]["points"]
    assert operating_point.curves({"auroc": {"value": None}}, first) == []


class Elements(html.parser.HTMLParser):
    """Tags with their attributes, and the text of scripts and of the rest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def test_the_control_is_hidden_until_the_script_runs_and_has_all_that_it_asks_for():
    names = ["</script><b>&", "it's"]
    curves = [
        {"name": name, "positive": 2, "negative": 3, "start": 0, "points": [[0.5, 1, 0]]}
        for name in names
    ]
    page = Elements(operating_point.section(curves, "the <start>"))
    data, script = page.scripts  # so the name has not ended the first one
    assert [each["name"] for each in json.loads(data)] == names
    assert json.loads(data) == curves
    assert "b" not in {tag for tag, _ in page.tags}
    assert all(name in page.text for name in (*names, "the <start>", "no interval"))
    assert page.tags[0] == ("section", {"id": "operating-point", "hidden": None})
    assert "section.hidden = false" in script
    assert script == pathlib.Path(operating_point.__file__).with_suffix(".js").read_text()
    kinds = {of.get("type") for tag, of in page.tags if tag == "input"}
    assert kinds == {"range", "number"}
    [wanted] = re.findall(r"const figures = \{(.*?)\}", script, re.DOTALL)
    figures = [of["data-figure"] for _, of in page.tags if "data-figure" in of]
    assert figures == re.findall(r"\b(threshold|sensitivity|specificity|ppv|npv)\b[,:]", wanted)


def test_one_finding_is_not_chosen_and_no_curve_needs_no_control():
    curve = {"name": "", "positive": 2, "negative": 3, "start": 0, "points": [[0.5, 1, 0]]}
    one, two = (operating_point.section([curve] * count, "") for count in (1, 2))
    assert ("<p hidden><label>Finding" in one, "<p><label>Finding" in two) == (True, True)
    assert operating_point.section([], "") == ""
