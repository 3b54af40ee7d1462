import json

import pytest

from cbam_flax.evaluate import analysis, calibration, statistics


@pytest.fixture
def fitted(make_predictions):
    validation = make_predictions(200, seed=5, name="validation")
    return calibration.fit(validation, "youden", step=3, split="validation")


@pytest.fixture
def analysed(make_predictions, make_columns, fitted):
    """Metrics as `evaluate` completes them, of predictions on which the model is good."""

    def analyse(train="train", **changes):
        predictions = make_predictions(150)
        predictions["probability"] = fitted.probability(predictions["logit"])
        columns = make_columns(300, seed=1, name=train)
        found = analysis.analyse(predictions | changes, fitted, columns, resamples=50)
        return found | {
            "split": "test",
            "external": False,
            "calibration": {"split": "validation"},
            "data": {"synthetic": False},
        }

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
    assert found["overlap"] == {"images": 0, "images_of_known_patients": 10}
    assert "10 of 150 images show patients" in analysis.warnings(found)[0]


def analysed_ids(make_columns, known):
    patient = make_columns(150)["patient_id"].astype("U20")
    patient[:10] = known
    return patient


def test_a_model_that_only_reads_the_view_is_told(analysed, make_columns):
    only_view = (make_columns(150)["view"] == "AP") * 0.5 + 0.2
    found = analysed(probability=only_view)
    assert any(w.startswith("SHORTCUT") for w in analysis.warnings(found))


def test_the_split_that_was_fitted_on_says_so(analysed):
    found = analysed() | {"split": "validation"}
    assert "chosen on this split" in analysis.warnings(found)[-1]
    assert analysis.warnings(found | {"external": True}) == []


def test_without_the_training_split_nothing_was_checked(make_predictions, fitted):
    found = analysis.analyse(make_predictions(150), fitted, None, resamples=50)
    assert found["baselines"] is None
    found |= {"split": "test", "external": True, "calibration": {"split": "validation"}}
    found["data"] = {"synthetic": False}
    assert "not available" in analysis.warnings(found)[0]
