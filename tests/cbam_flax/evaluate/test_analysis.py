import dataclasses
import json

import numpy as np
import pytest
import scipy.special

from cbam_flax.evaluate import analysis, calibration, statistics


@pytest.fixture
def fitted(make_predictions):
    validation = make_predictions(200, seed=5, name="validation")
    return calibration.fit(validation, "youden", step=3, split="validation")


def as_evaluated(fitted, **changes):
    """What `evaluate` adds to the analysis."""
    calibrated = dataclasses.asdict(fitted)
    found = {"split": "test", "external": False, "calibration": calibrated}
    return found | {"data": {"synthetic": False}} | changes


@pytest.fixture
def analysed(make_predictions, make_columns, fitted):
    """Metrics as `evaluate` completes them, of predictions on which the model is good."""

    def analyse(train="train", **changes):
        predictions = make_predictions(150)
        predictions["probability"] = fitted.probability(predictions["logit"])
        columns = make_columns(300, seed=1, name=train)
        found = analysis.analyse(predictions | changes, fitted, columns, resamples=50)
        return found | as_evaluated(fitted)

    return analyse


def test_everything_is_there_and_plain(analysed):
    found = json.loads(json.dumps(analysed(), allow_nan=False))
    assert (found["n"], found["n_positive"]) == (150, 50)
    figures = statistics.figures([0, 1], [0.1, 0.9], 0.5)
    assert all(found[name].keys() == {"value", "low", "high"} for name in figures)
    assert sum(found["confusion"].values()) == 150
    confusion = found["confusion"]
    assert found["sensitivity"]["value"] == round(
        confusion["tp"] / (confusion["tp"] + confusion["fn"]), 5
    )
    # Calibration changes probabilities, not their order.
    assert found["uncalibrated"]["brier"] != found["brier"]
    assert set(found["baselines"]) == {"constant", "view", "metadata", "patient"}


def test_predictive_values_at_a_prevalence(analysed):
    found = analysed()
    row = next(row for row in found["at_prevalence"] if row["prevalence"] == 0.05)
    expected = statistics.predictive_values(
        found["sensitivity"]["value"], found["specificity"]["value"], 0.05
    )
    assert (row["ppv"]["value"], row["npv"]["value"]) == pytest.approx(expected, abs=1e-4)
    assert row["ppv"]["low"] < row["ppv"]["value"] < row["ppv"]["high"]


def test_without_a_false_alarm_the_ppv_is_not_certain(make_predictions, fitted):
    predictions = make_predictions(60)
    predictions["probability"] = np.where(predictions["label"] == 1, 0.9, 0.1)
    predictions["probability"][predictions["label"].argmax()] = 0.1  # one is missed
    predictions["patient_id"] = predictions["image_id"]
    found = analysis.analyse(predictions, fitted, None, resamples=50)
    assert found["confusion"] == {"tp": 19, "fp": 0, "fn": 1, "tn": 40}
    row = next(row for row in found["at_prevalence"] if row["prevalence"] == 0.01)
    # 40 patients without an alarm: up to 8.8 % may have one.
    assert row["ppv"]["value"] == row["ppv"]["high"] == 1
    assert 0.05 < row["ppv"]["low"] < 0.15
    assert row["npv"]["low"] < row["npv"]["value"] < 1


def test_calibration_that_hurts_is_told_with_both_figures(analysed, fitted):
    worse = dataclasses.replace(
        fitted, before={"brier": 0.12, "ece": 0.0301}, after={"brier": 0.1204, "ece": 0.0911}
    )
    found = analysed() | as_evaluated(worse)
    found["uncalibrated"] = {
        "brier": {"value": 0.1},
        "ece": {"value": found["ece"]["value"] - 0.01},
    }
    on_validation, here = (w for w in analysis.warnings(found) if w.startswith("CALIBRATION"))
    assert "the validation split, on which it was fitted: calibration error" in on_validation
    assert "0.030 before, 0.091 after" in on_validation
    assert "Brier" not in on_validation  # 0.120 both
    assert f"Brier score 0.100 before, {found['brier']['value']:.3f} after" in here
    # Once only, where the split is the one that it was fitted on.
    same = analysis.warnings(found | {"split": "validation"})
    assert sum(w.startswith("CALIBRATION") for w in same) == 1


def test_a_calibration_of_an_older_version_is_unknown(analysed, fitted):
    older = dataclasses.replace(fitted, before=None, after=None)
    found = analysis.warnings(analysed() | as_evaluated(older))
    assert "did not record whether it helped" in found[0]


def test_a_sound_evaluation_has_no_warning(analysed):
    assert analysis.warnings(analysed()) == []


def test_drawings_are_told_first(analysed):
    found = analysed() | {"data": {"synthetic": True}}
    assert analysis.warnings(found)[0].startswith("SYNTHETIC: the images are drawings")


def test_images_of_the_training_split_are_a_leak(analysed, make_columns):
    found = analysed(train="test")  # the same image and patient ids
    assert found["overlap"]["images"] == 150
    assert analysis.warnings(found)[0].startswith("LEAK: 150 of 150 images are in the training")


def test_patients_of_the_training_split_are_a_leak(analysed, make_columns):
    known = make_columns(300, seed=1, name="train")["patient_id"][0]
    found = analysed(patient_id=analysed_ids(make_columns, known))
    assert found["overlap"] == {"images": 0, "images_of_known_patients": 10, "unchecked": 0}
    assert "10 of 150 images show patients" in analysis.warnings(found)[0]


def analysed_ids(make_columns, known):
    patient = make_columns(150)["patient_id"].astype("U20")
    patient[:10] = known
    return patient


def test_a_model_that_only_reads_the_view_is_told(analysed, make_columns):
    only_view = (make_columns(150)["view"] == "AP") * 0.5 + 0.2
    found = analysed(probability=only_view, logit=scipy.special.logit(only_view))
    assert any(w.startswith("SHORTCUT") for w in analysis.warnings(found))


def test_the_split_that_was_fitted_on_says_so(analysed):
    found = analysed() | {"split": "validation"}
    assert "chosen on this split" in analysis.warnings(found)[-1]
    assert analysis.warnings(found | {"external": True}) == []


def test_without_the_training_split_nothing_was_checked(make_predictions, fitted):
    found = analysis.analyse(make_predictions(150), fitted, None, resamples=50)
    assert found["baselines"] is None
    found |= as_evaluated(fitted, external=True)
    assert "not available" in analysis.warnings(found)[0]
