import dataclasses

import numpy as np
import pytest
from etils import epath

from cbam_flax.evaluate import (
    calibration,
    ensemble,
    findings,
    findings_report,
    folder,
    statistics,
)
from cbam_flax.evaluate.pictures import Pictures
from cbam_flax.evaluate.predict_split import of_finding
from cbam_flax.input_pipeline import Split
from data_prep.cli import UserError

NAMES = ["Mass", "Nodule", "Hernia"]


def several(make_predictions, n=60):
    """Predictions of NAMES: Nodule is labelled in part, Hernia never positive."""
    first, second = make_predictions(n, 1), make_predictions(n, 2)
    label = np.stack([first["label"], second["label"], np.zeros(n)], axis=1).astype(np.int32)
    label[::4, 1] = -1
    logit = np.stack([first["logit"], second["logit"], second["logit"]], axis=1)
    return first | {"label": label, "logit": logit, "probability": 1 / (1 + np.exp(-logit))}


@pytest.fixture
def predictions(make_predictions):
    return several(make_predictions)


@pytest.fixture
def fitted(predictions):
    return findings.fit(predictions, NAMES, "sensitivity=0.9", step=3, split="validation")


def a_split(labels, names):
    columns = {"label": np.int32(labels), "image_id": np.arange(len(labels)).astype(str)}
    images = np.arange(len(labels) * 16, dtype=np.uint8).reshape(-1, 4, 4)
    return Split("test", images, columns, {"findings": names, "dataset": "other"})


def test_each_finding_is_calibrated_on_the_images_labelled_for_it(predictions, fitted):
    alone = calibration.fit(
        of_finding(predictions, 1), "sensitivity=0.9", step=3, split="validation"
    )
    assert fitted.of["Nodule"] == alone
    assert (alone.n, fitted.of["Mass"].n) == (45, 60)
    assert fitted.criterion == "sensitivity=0.9"
    probability = fitted.probability(predictions["logit"])
    np.testing.assert_array_equal(probability[:, 1], alone.probability(predictions["logit"][:, 1]))
    # Nothing can be fitted to one class.
    hernia = fitted.of["Hernia"]
    assert (hernia.scale, hernia.bias, hernia.threshold, hernia.criterion) == (1, 0, 0.5, "fixed")


def test_labels_follow_the_findings_of_the_model_by_name():
    split = a_split([[0, 1], [1, -1]], ["hernia", "Mass"])
    aligned = findings.align(split, NAMES)
    np.testing.assert_array_equal(aligned.labels, [[1, -1, 0], [-1, -1, 1]])
    assert aligned.findings == tuple(NAMES)
    one = findings.align(split, ["Mass"])
    np.testing.assert_array_equal(one.labels, [1])
    assert (list(one.columns["image_id"]), one.images.shape) == (["0"], (1, 4, 4))
    assert [len(boxes) for boxes in one.columns["boxes"]] == [0]  # nobody knows of which finding
    with pytest.raises(UserError, match="no image of the test split of other is labelled for Mass"):
        findings.align(a_split([[0, -1], [1, -1]], ["hernia", "Mass"]), ["Mass"])
    assert findings.align(split, ["hernia", "Mass"]) is split
    alone = a_split([0, 1], ["opacity"])
    assert findings.align(alone, ["pneumonia"]) is alone
    [warning] = findings.other_name(alone, ["pneumonia"])
    assert warning.startswith("FINDING: the model was trained on pneumonia and is judged by labels")
    assert findings.other_name(alone, ["Opacity"]) == findings.other_name(split, NAMES) == []
    np.testing.assert_array_equal(
        findings.align(alone, ["x", "Opacity"]).labels, [[-1, 0], [-1, 1]]
    )
    with pytest.raises(UserError, match="other has labels of opacity and the model"):
        findings.align(alone, NAMES)


def test_the_mean_is_that_of_the_findings_with_both_classes(predictions, fitted):
    predictions["probability"] = fitted.probability(predictions["logit"])
    found = findings.analyse(predictions, fitted, None, resamples=50)
    assert found["mean"]["of"] == ["Mass", "Nodule"]
    for name in ("auroc", "average_precision", "brier", "sensitivity"):
        values = [found["findings"][each][name]["value"] for each in ("Mass", "Nodule")]
        assert found["mean"][name]["value"] == pytest.approx(np.mean(values), abs=1e-5)
        assert found["mean"][name]["low"] < found["mean"][name]["value"]
    assert found["findings"]["Nodule"]["n"] == 45
    assert found["findings"]["Nodule"]["calibration"] == dataclasses.asdict(fitted.of["Nodule"])


def test_the_findings_of_a_resample_are_of_the_same_patients(predictions):
    """Opposite scores of the same labels have AUROCs whose sum is 1 in every resample."""
    label = predictions["label"][:, :1]
    logit = predictions["logit"][:, :1]
    logit = np.hstack([logit, -logit])
    opposite = predictions | {
        "label": np.hstack([label, label]),
        "logit": logit,
        "probability": 1 / (1 + np.exp(-logit)),
    }
    mean = findings.mean_figures(opposite, ["a", "b"], [0.5, 0.5], resamples=50)
    assert mean["auroc"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert mean["brier"]["low"] < mean["brier"]["high"]


def test_a_mean_rests_on_the_patients_of_the_findings_that_vary_most():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(4000, 2))
    assert findings._patients_behind_mean(samples * [1, 1e-6], [5, 200]) == 5
    assert findings._patients_behind_mean(samples * [1e-6, 1], [5, 200]) == 200
    assert findings._patients_behind_mean(samples, [50, 50]) == pytest.approx(99, abs=1)
    assert findings._patients_behind_mean(np.zeros((10, 2)), [5, 200]) == 5


def test_warnings_name_the_finding(predictions, fitted):
    predictions["label"][:, 0] = -1  # not labelled on this split
    predictions["label"][:6, 2] = 1  # not positive on validation
    found = findings.analyse(predictions, fitted, None, resamples=20)
    assert found["findings"]["Mass"]["n"] == 0
    metrics = {
        **found,
        "data": {"synthetic": False},
        "split": "validation",
        "external": False,
    }
    warnings = findings.warnings(metrics)
    kinds = [text.partition(":")[0] for text in warnings]
    assert kinds[:2] == ["The training split was not available", "NOT JUDGED"]
    assert warnings[1].startswith("NOT JUDGED: Mass: ")
    assert any(text.startswith("UNCALIBRATED: Hernia: ") for text in warnings)
    assert any(text.startswith("SMALL: Nodule, Hernia: fewer than 30 ") for text in warnings)
    assert "optimistic" in warnings[-1]


def test_where_nothing_is_judged_there_is_no_mean(predictions):
    predictions["label"][:] = 0
    assert findings.mean_figures(predictions, NAMES, [0.5] * 3) == {"of": []}


def test_a_mean_leaves_out_the_images_that_are_not_labelled(predictions):
    predictions["label"][:, [0, 2]] = -1
    mean = findings.mean_figures(predictions, NAMES, [0.5] * 3, resamples=10)
    one = of_finding(predictions, 1)
    alone = statistics.figures(one["label"], one["probability"], 0.5, score=one["logit"])
    assert mean["brier"]["value"] == pytest.approx(alone["brier"], abs=1e-5)


def test_an_ensemble_of_several_findings_is_written_with_the_spread_of_each(
    predictions, fitted, tmp_path
):
    members = np.stack([predictions["logit"], predictions["logit"] + 1])
    spread = ensemble.spread(members, fitted)
    metrics = findings.analyse(predictions, fitted, None, resamples=20) | {
        **{"schema": 1, "dataset": "x", "split": "test", "external": False, "warnings": []},
        "ensemble": {"combine": "logit", "members": [{}, {}]},
        "data": {"dataset": "x", "split_scheme": "patient", "splits": {}, "synthetic": False},
        "provenance": {"checkpoint_step": 3, "config": {}},
    }
    page = findings_report.render(metrics, Pictures())
    assert "The score is the mean logit of 2 runs" in page
    assert "Not a medical device" in page
    target = epath.Path(tmp_path) / "evaluation" / "ensemble-test"
    folder.write(target, metrics, predictions | {"spread": spread}, {}, page)
    head, first, *_ = (target / "predictions.csv").read_text().splitlines()
    row = dict(zip(head.split(","), first.split(","), strict=True))
    assert float(row["spread:Nodule"]) == pytest.approx(spread[0, 1], abs=1e-8)
    with pytest.raises(UserError, match="--compare and --pool take evaluations of one"):
        folder.read(target)
