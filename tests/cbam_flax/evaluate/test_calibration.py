import dataclasses
import json

import numpy as np
import pytest
import scipy.special
from sklearn.linear_model import LogisticRegression

from cbam_flax.evaluate import calibration
from data_prep.cli import UserError


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    logit = np.round(rng.normal(scale=2, size=4000), 4)
    label = (rng.random(4000) < scipy.special.expit(0.5 * logit - 1)).astype(np.int64)
    return {"logit": logit, "label": label}


def test_platt_finds_the_line_that_made_the_labels(predictions):
    scale, bias = calibration.platt(predictions["logit"], predictions["label"])
    assert scale == pytest.approx(0.5, abs=0.05)
    assert bias == pytest.approx(-1, abs=0.1)
    reference = LogisticRegression(C=np.inf).fit(
        predictions["logit"][:, None], predictions["label"]
    )
    assert scale == pytest.approx(reference.coef_[0, 0], abs=0.005)
    assert bias == pytest.approx(reference.intercept_[0], abs=0.005)


def test_platt_stays_finite_where_the_classes_are_separate():
    logit = np.array([-2.0, -1.0, 1.0, 2.0])
    scale, bias = calibration.platt(logit, np.array([0, 0, 1, 1]))
    assert 0 < scale < 10
    # Platt's targets, not 0 and 1, are met as well as a line can.
    assert scipy.special.expit(scale * logit + bias)[-1] < 0.95


def test_calibration_never_reorders_images():
    logit = np.linspace(-3, 3, 100)
    scale, _ = calibration.platt(logit, (logit < 0).astype(int))
    assert scale == calibration.MIN_SCALE


@pytest.mark.parametrize(
    ("criterion", "threshold"),
    [
        ("youden", 0.35),
        ("sensitivity=1", 0.35),
        ("sensitivity=0.6", 0.5),  # three of the four positives
        ("specificity=1", 0.75),
        ("specificity=0.5", 0.25),  # two of the four negatives
    ],
)
def test_operating_point_by_hand(criterion, threshold):
    probability = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
    label = np.array([0, 0, 0, 1, 1, 0, 1, 1])
    found = calibration.operating_point(label, probability, criterion)
    assert found == pytest.approx(threshold)


def test_operating_point_keeps_what_was_wanted(predictions):
    label = predictions["label"]
    for wanted in (0.5, 0.8, 0.95, 1.0):
        for name, members in (("sensitivity", label == 1), ("specificity", label == 0)):
            fitted = calibration.fit(predictions, f"{name}={wanted}", step=1, split="validation")
            called = fitted.probability(predictions["logit"]) >= fitted.threshold
            right = called[members] == (name == "sensitivity")
            assert right.mean() >= wanted


@pytest.mark.parametrize("criterion", ["f1", "sensitivity", "sensitivity=0", "specificity=1.2", ""])
def test_unknown_criterion_is_refused(predictions, criterion):
    with pytest.raises(UserError, match="youden, sensitivity=X"):
        calibration.fit(predictions, criterion, step=1, split="validation")


def test_what_calibration_did_to_its_own_split_is_kept(predictions, tmp_path):
    fitted = calibration.fit(predictions, "youden", step=1, split="validation")
    label = predictions["label"]
    raw = np.mean((scipy.special.expit(predictions["logit"]) - label) ** 2)
    calibrated = np.mean((fitted.probability(predictions["logit"]) - label) ** 2)
    assert fitted.before["brier"] == pytest.approx(raw, abs=1e-5)
    assert fitted.after["brier"] == pytest.approx(calibrated, abs=1e-5)
    assert fitted.after["ece"] < fitted.before["ece"]
    older = dataclasses.asdict(fitted)
    del older["before"], older["after"]
    assert calibration.parse(older, "metrics.json").before is None


def test_one_class_cannot_be_calibrated_on():
    predictions = {"logit": np.zeros(5), "label": np.zeros(5, int)}
    with pytest.raises(UserError, match="one class only"):
        calibration.fit(predictions, "youden", step=1, split="validation")


def test_what_is_written_is_read(predictions):
    fitted = calibration.fit(predictions, "sensitivity=0.9", step=7, split="validation")
    stored = json.loads(json.dumps(dataclasses.asdict(fitted)))
    assert calibration.parse(stored, "metrics.json") == fitted


@pytest.mark.parametrize(
    "change",
    [
        {"scale": float("nan")},
        {"scale": -1.0},
        {"bias": float("inf")},
        {"threshold": 1e9},
        {"threshold": "0.5"},
        {"step": 7.5},
        {"n": None},
        {"criterion": 3},
        {"extra": 1},
    ],
)
def test_values_that_cannot_be_right_are_refused(predictions, change):
    fitted = calibration.fit(predictions, "youden", step=7, split="validation")
    with pytest.raises(UserError, match=r"m\.json .*; run cbam_flax\.evaluate again"):
        calibration.parse(dataclasses.asdict(fitted) | change, "m.json")


@pytest.mark.parametrize("values", [None, [], "text", {}])
def test_what_is_no_calibration_is_named(values):
    with pytest.raises(UserError, match=r"m\.json holds no calibration"):
        calibration.parse(values, "m.json")
