import numpy as np
import pytest
from etils import epath
from sklearn.metrics import roc_auc_score

from cbam_flax.evaluate import compare
from cbam_flax.evaluate import folder as evaluation_folder
from data_prep.cli import UserError


@pytest.fixture
def write_run(tmp_path, make_predictions, tiny_config):
    """A function that writes the evaluation folder of a made-up run and returns its workdir."""

    def write(name, noise=0.0, change=None, n=120, **settings):
        predictions = make_predictions(n)
        extra = np.random.default_rng(len(name)).normal(scale=noise or 1e-9, size=n)
        predictions["logit"] = np.round(predictions["logit"] + extra, 4)
        predictions["probability"] = 1 / (1 + np.exp(-predictions["logit"]))
        predictions |= change or {}
        config = tiny_config.copy_and_resolve_references()
        config.data_dir = "data"
        config.update_from_flattened_dict(settings)
        metrics = {
            "threshold": 0.4,
            "provenance": {"checkpoint_step": 5, "config": config.to_dict()},
        }
        folder = epath.Path(tmp_path / name / "evaluation" / "test")
        evaluation_folder.write(folder, metrics, predictions, {}, "")
        return str(tmp_path / name)

    return write


def test_seeds_are_grouped_and_configs_compared(write_run, make_predictions):
    runs = [
        write_run("a", noise=0.1, seed=0),
        write_run("bb", noise=0.1, seed=1),
        write_run("ccc", noise=6.0, **{"model.attention": "none"}),
    ]
    found = compare.compare(runs, "test", resamples=300)
    assert list(found["groups"]) == ["model.attention=cbam", "model.attention=none"]
    assert found["groups"]["model.attention=cbam"]["runs"] == runs[:2]
    values = []
    for run in runs:
        _, read = evaluation_folder.read(epath.Path(run) / "evaluation" / "test")
        values.append(roc_auc_score(read["label"], read["probability"]))
    cbam = found["groups"]["model.attention=cbam"]
    assert cbam["auroc"]["value"] == pytest.approx(np.mean(values[:2]), abs=1e-5)
    assert cbam["sd_over_seeds"]["auroc"] == pytest.approx(np.std(values[:2], ddof=1), abs=1e-5)
    assert found["groups"]["model.attention=none"]["sd_over_seeds"]["auroc"] is None
    row = next(row for row in found["differences"] if row["figure"] == "auroc")
    assert row["difference"]["value"] == pytest.approx(np.mean(values[:2]) - values[2], abs=2e-5)
    assert row["difference"]["low"] > 0
    assert row["p"] < row["p_adjusted"] < 0.05


def test_equal_runs_do_not_differ(write_run):
    runs = [write_run("a"), write_run("b", **{"model.width": 0.5})]
    found = compare.compare(runs, "test", resamples=100)
    for row in found["differences"]:
        assert row["difference"] == {"value": 0, "low": 0, "high": 0}
        assert row["p"] == row["p_adjusted"] == 1


def test_where_a_run_was_made_is_no_difference(write_run):
    runs = [
        write_run("a"),
        write_run("bb", data_dir="elsewhere", **{"mesh.fsdp": 2, "evaluate.batch_size": 3}),
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
