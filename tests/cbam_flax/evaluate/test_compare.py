import dataclasses

import numpy as np
import pytest
from etils import epath
from sklearn.metrics import roc_auc_score

from cbam_flax.evaluate import compare
from cbam_flax.evaluate import folder as evaluation_folder
from cbam_flax.evaluate.calibration import Calibration
from data_prep.cli import UserError


@pytest.fixture
def write_run(tmp_path, make_predictions, tiny_config):
    """A function that writes the evaluation folder of a made-up run and returns its workdir."""

    def write(name, noise=0.0, change=None, n=120, weights=None, **settings):
        predictions = make_predictions(n)
        extra = np.random.default_rng(len(name)).normal(scale=noise or 1e-9, size=n)
        predictions["logit"] = np.round(predictions["logit"] + extra, 4)
        predictions["probability"] = 1 / (1 + np.exp(-predictions["logit"]))
        predictions |= change or {}
        config = tiny_config.copy_and_resolve_references()
        config.data_dir = "data"
        config.update_from_flattened_dict(settings)
        provenance = {"checkpoint_step": 5, "config": config.to_dict()}
        provenance |= {"weights_sha256": weights} if weights else {}
        data = {"split_scheme": "patient"}
        fitted = Calibration(1.5, 0.0, 0.4, "youden", 5, "validation", 9, 3)
        metrics = {
            "threshold": 0.4,
            "provenance": provenance,
            "data": data,
            "calibration": dataclasses.asdict(fitted),
        }
        folder = epath.Path(tmp_path / name / "evaluation" / "test")
        evaluation_folder.write(folder, metrics, predictions, {}, "")
        return str(tmp_path / name)

    return write


def test_seeds_are_grouped_and_configs_compared(write_run, make_predictions):
    none = {"model.attention": "none"}
    runs = [
        write_run("a", noise=0.1, seed=0),
        write_run("bb", noise=0.1, seed=1),
        write_run("ccc", noise=6.0, seed=1, **none),
        write_run("dddd", noise=6.0, seed=0, **none),
    ]
    found = compare.compare(runs, "test", resamples=300)
    assert list(found["groups"]) == ["model.attention=cbam", "model.attention=none"]
    cbam, none = found["groups"].values()
    assert (cbam["runs"], none["runs"]) == (runs[:2], runs[:1:-1])
    assert cbam["seeds"] == none["seeds"] == [0, 1]
    values = []
    for run in runs:
        _, read = evaluation_folder.read(epath.Path(run) / "evaluation" / "test")
        values.append(roc_auc_score(read["label"], read["logit"]))
    assert cbam["auroc"]["value"] == pytest.approx(np.mean(values[:2]), abs=1e-5)
    assert cbam["sd_over_seeds"]["auroc"] == pytest.approx(np.std(values[:2], ddof=1), abs=1e-5)
    row = next(row for row in found["differences"] if row["figure"] == "auroc")
    expected = np.mean(values[:2]) - np.mean(values[2:])
    assert row["difference"]["value"] == pytest.approx(expected, abs=2e-5)
    assert row["paired_by_seed"]
    assert row["over"] == cbam["over"] == "patients and seeds"
    assert 0 < row["p"] < row["p_adjusted"] < 0.05
    assert "| patients and seeds | image and seed | <0.0001 |" in compare.markdown(found)


def test_with_one_seed_there_is_no_p_value(write_run):
    runs = [
        write_run("a", noise=0.1, seed=0),
        write_run("bb", noise=0.1, seed=1),
        write_run("ccc", noise=6.0, **{"model.head": "gap"}),
    ]
    found = compare.compare(runs, "test", resamples=100)
    assert found["groups"]["model.head=gap"]["sd_over_seeds"]["auroc"] is None
    for row in found["differences"]:
        assert row["p"] is row["p_adjusted"] is None
        assert row["over"] == "patients only, training noise unknown"
        assert row["difference"]["low"] < row["difference"]["value"]
    table = compare.markdown(found)
    assert "| patients only, training noise unknown | image | - | - |" in table


def test_images_are_ranked_by_the_logit(write_run, make_predictions):
    logit = make_predictions(120)["logit"] * 20  # probabilities of 1.00000000
    probability = 1 / (1 + np.exp(-logit))
    run = write_run("a", change={"logit": logit, "probability": probability})
    label = make_predictions(120)["label"]
    found = compare.compare([run], "test", resamples=20)["groups"]["all"]
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(label, logit), abs=1e-5)
    assert abs(found["auroc"]["value"] - roc_auc_score(label, probability.round(8))) > 0.001


def test_the_same_run_twice_is_refused(write_run, tmp_path):
    run = write_run("a", seed=0)
    (tmp_path / "link").symlink_to(run)
    for again in (run, run + "/", f"{tmp_path}/link"):
        with pytest.raises(UserError, match=r"are the same run \(one folder\).*name each run once"):
            compare.compare([run, again], "test")
    with pytest.raises(UserError, match="one config and one seed"):
        compare.compare([run, write_run("bb", seed=0)], "test")
    copies = [write_run(name, seed=len(name), weights="ab") for name in ("ccc", "dddd")]
    with pytest.raises(UserError, match="the same weights"):
        compare.compare(copies, "test")


def test_equal_runs_do_not_differ(write_run):
    runs = [write_run("a"), write_run("b", **{"model.width": 0.5})]
    found = compare.compare(runs, "test", resamples=100)
    for row in found["differences"]:
        assert row["difference"] == {"value": 0, "low": 0, "high": 0}


def test_where_a_run_was_made_is_no_difference(write_run):
    runs = [
        write_run("a"),
        write_run("bb", seed=1, data_dir="elsewhere", **{"mesh.fsdp": 2, "evaluate.batch_size": 3}),
    ]
    found = compare.compare(runs, "test", resamples=20)
    assert list(found["groups"]) == ["all"]
    assert found["differences"] == []


def test_other_images_are_refused(write_run, make_predictions):
    first = write_run("a")
    with pytest.raises(UserError, match="not evaluated on the same images"):
        compare.compare([first, write_run("bb", n=60)], "test")
    flipped = {"label": 1 - make_predictions(120)["label"]}
    with pytest.raises(UserError, match="label differs"):
        compare.compare([first, write_run("ccc", change=flipped)], "test")


def test_a_run_that_was_not_evaluated_is_refused(write_run, tmp_path):
    with pytest.raises(UserError, match=f"--workdir={tmp_path}/none first"):
        compare.compare([write_run("a"), str(tmp_path / "none")], "test")


def test_the_table_tells_groups_and_differences(write_run):
    runs = [write_run("a", noise=0.1), write_run("ccc", noise=3.0, **{"model.head": "gap"})]
    table = compare.markdown(compare.compare(runs, "test", resamples=50))
    assert "| model.head=flatten | 1 |" in table
    assert "| model.head=flatten - model.head=gap | auroc |" in table


def test_an_evaluation_with_flips_is_no_further_seed(tiny_config):
    plain = {"provenance": {"config": tiny_config.to_dict()}}
    several = {"ensemble": {"combine": "logit", "members": [{}, {}]}}
    named = compare.names("abc", [plain, plain | {"tta": "flip"}, plain | several])
    assert named == [
        "ensemble=none, tta=none",
        "ensemble=none, tta=flip",
        "ensemble=logits of 2, tta=none",
    ]
