import dataclasses
import json
import re

import numpy as np
import pytest
from etils import epath
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from cbam_flax.evaluate import folder, pool
from cbam_flax.evaluate.calibration import Calibration
from data_prep.cli import UserError

INTERVAL = {"value": 0.7, "low": 0.6, "high": 0.8}


@pytest.fixture
def write_fold(tmp_path, make_predictions, tiny_config):
    """A function that writes the evaluation of a made-up run of a fold; returns its workdir."""

    def write(
        fold,
        seed=0,
        folds=2,
        noise=0.3,
        data="all",
        warnings=(),
        split="test",
        ancestors=(),
        ensemble=None,
        **config,
    ):
        predictions = make_predictions(90, fold, f"fold{fold}")
        extra = np.random.default_rng([fold, seed]).normal(scale=noise, size=90)
        predictions["logit"] = np.round(predictions["logit"] + extra, 4)
        # The models of different folds are on other scales; calibration brings them together.
        fitted = Calibration(1.0 / (fold + 1), -0.5, 0.4 + fold / 10, "youden", 5, "val", 9, 3)
        predictions["logit"] = (fold + 1) * predictions["logit"]
        predictions["probability"] = fitted.probability(predictions["logit"])
        settings = tiny_config.copy_and_resolve_references()
        settings.update({"folds": folds, "fold": fold, "seed": seed})
        settings.update_from_flattened_dict(config)
        metrics = {
            "dataset": "made up",
            "split": split,
            "n": 90,
            "n_positive": 30,
            "auroc": INTERVAL,
            "threshold": fitted.threshold,
            "provenance": {
                "checkpoint_step": 5,
                "weights_sha256": f"{fold}-{seed}",
                "config": settings.to_dict(),
            },
            "data": {
                "dataset": "made up",
                "split_scheme": "patient",
                "synthetic": False,
                "fold": {"fold": fold, "folds": folds, "prepared_sha256": data},
            },
            "calibration": dataclasses.asdict(fitted),
            "overlap": {"images": 0, "images_of_known_patients": 0, "unchecked": fold},
            "warnings": list(warnings),
        }
        metrics |= {"ensemble": ensemble} if ensemble else {}
        metrics["provenance"] |= {"ancestors": list(ancestors)} if ancestors else {}
        workdir = tmp_path / f"fold{fold}-{seed}"
        folder.write(epath.Path(workdir / "evaluation" / "test"), metrics, predictions, {}, "")
        return str(workdir)

    return write


def read_scores(workdirs):
    """(label, logit of the calibrated probability, whether it is called) of each run."""
    found = []
    for workdir in workdirs:
        metrics, rows = folder.read(epath.Path(workdir) / "evaluation" / "test")
        fitted = Calibration(**metrics["calibration"])
        calibrated = fitted.scale * rows["logit"] + fitted.bias
        found.append((rows["label"], calibrated, rows["probability"] >= fitted.threshold))
    return found


def test_every_image_is_judged_once_at_the_threshold_of_its_own_run(write_fold, tmp_path):
    runs = [write_fold(1), write_fold(0)]
    metrics = pool.pool(runs, out=str(tmp_path / "out"), resamples=200)
    scores = read_scores(runs)
    label, score, called = (np.concatenate(each) for each in zip(*scores, strict=True))
    assert metrics["auroc"]["value"] == pytest.approx(roc_auc_score(label, score), abs=1e-5)
    means = np.mean([roc_auc_score(one[0], one[1]) for one in scores])
    assert metrics["auroc_mean_of_folds"]["value"] == pytest.approx(means, abs=1e-5)
    assert metrics["auroc"]["low"] < means < metrics["auroc"]["high"]
    assert metrics["sensitivity"]["value"] == pytest.approx(called[label == 1].mean(), abs=1e-5)
    assert (metrics["n"], metrics["n_positive"]) == (180, 60)
    assert metrics["overlap"] == {"images": 0, "images_of_known_patients": 0, "unchecked": 1}
    assert metrics["warnings"] == []
    assert metrics["pooled"]["over"] == "patients only, training noise unknown"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"metrics.json", "predictions.csv", "report.html", "roc.png"} <= names
    head, *rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert head.endswith(",fold,run")
    assert len({row.split(",")[0] for row in rows}) == len(rows) == 180
    assert rows[0].endswith(",0,fold0-0")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mean of the AUROCs within the folds" in page
    assert "2 of 2 folds pooled" in page
    assert "Not a medical device" in page
    [curve] = json.loads(re.findall(r"<script type='application/json'>(.*?)</script>", page)[0])
    at, *called = curve["points"][curve["start"]]
    assert at == 0.45  # between the thresholds of the folds
    high = score >= logit(at)
    assert called == [np.sum(high & (label == 1)), np.sum(high & (label == 0))]


def test_seeds_widen_the_interval_and_are_averaged(write_fold, tmp_path):
    runs = [write_fold(fold, seed, noise=2.0) for fold in (0, 1) for seed in (0, 1, 2)]
    metrics = pool.pool(runs, resamples=200)
    scores = read_scores(runs)
    each = []
    for seed in range(3):
        label, score, _ = (
            np.concatenate(one) for one in zip(scores[seed], scores[seed + 3], strict=True)
        )
        each.append(roc_auc_score(label, score))
    assert metrics["auroc"]["value"] == pytest.approx(np.mean(each), abs=1e-5)
    assert metrics["sd_over_seeds"]["auroc"] == pytest.approx(np.std(each, ddof=1), abs=1e-5)
    assert metrics["pooled"]["over"] == "patients and seeds"
    assert metrics["n"] == 180
    assert (tmp_path / "pooled-test" / "metrics.json").exists()
    rows = (tmp_path / "pooled-test" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 180
    page = (tmp_path / "pooled-test" / "report.html").read_text()
    assert "standard deviation over seeds" in page
    [curve] = json.loads(re.findall(r"<script type='application/json'>(.*?)</script>", page)[0])
    assert (curve["positive"], curve["negative"]) == (3 * 60, 3 * 120)


def test_missing_folds_and_the_warnings_of_the_runs_are_told(write_fold):
    runs = [write_fold(0, folds=3), write_fold(1, folds=3, warnings=["SHORTCUT: age", "SMALL: x"])]
    metrics = pool.pool(runs, resamples=50)
    assert metrics["warnings"][0].startswith("PARTIAL: the folds [2] of 3 are missing")
    assert metrics["warnings"][1:] == ["Fold 1, seed 0: SHORTCUT: age"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "other"}, "differ in the data"),
        ({"folds": 3}, "differ in the number of folds"),
        ({"model.head": "gap"}, "different configs .*model.head=gap"),
        ({"split": "validation"}, "differ in the split"),
        ({"ancestors": [{}]}, "differ in what they start from"),
        ({"ensemble": {"combine": "logit", "members": [1, 2]}}, "ensemble=logits of 2"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(write_fold, change, words):
    runs = [write_fold(1, **change), write_fold(0)]
    with pytest.raises(UserError, match=words):
        pool.pool(runs, resamples=50)


def test_only_the_test_split_is_in_one_fold_alone(write_fold):
    with pytest.raises(UserError, match="of the train split, whose images are in several folds"):
        pool.pool([write_fold(0, split="train")])


def test_a_run_counts_once_and_every_fold_alike(write_fold):
    first = write_fold(0)
    with pytest.raises(UserError, match="one folder"):
        pool.pool([first, first])
    with pytest.raises(UserError, match="1 of fold 0, 2 of fold 1"):
        pool.pool([first, write_fold(1), write_fold(1, seed=1)])
