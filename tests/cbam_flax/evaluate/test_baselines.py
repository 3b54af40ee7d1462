import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cbam_flax.evaluate import baselines


@pytest.fixture
def train(make_columns):
    return make_columns(300, seed=1, name="train")


def test_scores_by_hand(train, make_columns):
    evaluated = make_columns(100)
    scores = baselines.shortcut_scores(train, evaluated)
    assert set(scores["constant"]) == {train["label"].mean()}
    # One score for each view, higher where the training labels are more often positive.
    by_view = {view: set(scores["view"][evaluated["view"] == view]) for view in ("AP", "PA")}
    assert all(len(values) == 1 for values in by_view.values())
    assert min(by_view["AP"]) > max(by_view["PA"])
    # No patient is in both splits: the memoriser knows nothing.
    assert set(scores["patient"]) == {train["label"].mean()}


def test_metadata_sees_what_each_column_tells(train, make_columns):
    evaluated = make_columns(300, seed=2)
    for name, ill, well in (("age", 75, 35), ("spacing", 0.2, 0.1), ("sex", "F", "M")):
        for columns in (train, evaluated):
            columns[name] = np.where(columns["label"] == 1, ill, well)
        score = baselines.shortcut_scores(train, evaluated)["metadata"]
        assert roc_auc_score(evaluated["label"], score) == 1, name


def test_memoriser_recalls_the_patients_training_labels(train, make_columns):
    evaluated = make_columns(2)
    evaluated["patient_id"] = np.array([train["patient_id"][0], "unknown"])
    mine = train["patient_id"] == train["patient_id"][0]
    found = baselines.shortcut_scores(train, evaluated)["patient"]
    assert found == pytest.approx([train["label"][mine].mean(), train["label"].mean()])


def test_missing_and_new_values_are_no_error(train, make_columns):
    evaluated = make_columns(20)
    evaluated["view"] = np.array([""] * 20)
    evaluated["age"] = np.full(20, np.nan, np.float32)
    scores = baselines.shortcut_scores(train, evaluated)
    assert all(np.isfinite(score).all() for score in scores.values())


def test_gain_is_the_paired_difference(train, make_predictions):
    evaluated = make_predictions(200)
    scores = baselines.shortcut_scores(train, evaluated) | {"copy": evaluated["probability"]}
    found = baselines.gain_over_shortcuts(evaluated, scores, resamples=200)
    auroc = roc_auc_score(evaluated["label"], evaluated["probability"])
    view = roc_auc_score(evaluated["label"], scores["view"])
    assert found["view"]["gain"]["value"] == pytest.approx(auroc - view, abs=1e-5)
    assert found["view"]["gain"]["low"] > 0
    # Paired: a copy of the model is above it by exactly nothing, in every resample.
    assert found["copy"]["gain"] == {"value": 0, "low": 0, "high": 0}
    assert found["constant"]["auroc"] == {"value": 0.5, "low": 0.5, "high": 0.5}
