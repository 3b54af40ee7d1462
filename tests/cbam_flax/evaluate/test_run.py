import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cbam_flax import checkpoint, provenance, sharding
from cbam_flax.evaluate import pictures, predict_split, saliency, validation
from cbam_flax.evaluate import run as run_lib
from cbam_flax.evaluate.run import evaluate_workdir
from cbam_flax.input_pipeline import Split
from cbam_flax.models import create_model
from cbam_flax.step import TrainState
from data_prep.cli import UserError
from data_prep.files import folders

SIZES = {"train": 60, "validation": 45, "test": 50}
QUICK = {"resamples": 50, "explained": 0}


@pytest.fixture(scope="module")
def run(make_tiny_config, draw_variables, tmp_path_factory):
    """A workdir with one checkpoint, of step 5, whose data are the made-up ones of `data`."""
    workdir, config = tmp_path_factory.mktemp("run"), make_tiny_config()
    config.data_dir = "home"
    config.model.context, config.model.pooling = "none", "max"  # compiles faster
    config.optimizer.ema = 0.0
    variables = jax.tree.map(jnp.asarray, draw_variables(create_model(config.model), 32))
    state = TrainState(jnp.int32(5), variables["params"], variables["batch_stats"], {}, None)
    fingerprint = {split: f"home {split}" for split in ("train", "validation")}
    with checkpoint.make_manager(str(workdir), config) as manager:
        checkpoint.save(
            manager,
            state,
            step=5,
            config=config,
            fingerprint=fingerprint,
            metrics={"auroc": 0.7},
        )
        manager.wait_until_finished()
    return workdir


@pytest.fixture
def workdir(run, tmp_path):
    """The run afresh, as nothing had evaluated it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(run / "checkpoints")
    return tmp_path / "run"


@pytest.fixture
def plain(monkeypatch):
    """Without pictures, which take most of the time, and without the state of the sources."""
    monkeypatch.setattr(pictures, "draw", lambda *args, **kwargs: pictures.Pictures())
    monkeypatch.setattr(pictures, "write_to_tensorboard", lambda *args: None)
    monkeypatch.setattr(provenance, "code_fingerprint", lambda: "code")


@pytest.fixture
def data(make_columns, monkeypatch):
    """{(data_dir, split): Split} in place of what lies on disk; a test may change it."""
    splits = {}
    for data_dir in ("home", "other hospital"):
        manifest = {
            "dataset": "rsna_pneumonia/32px/1.0.0",
            "split_scheme": "patient",
            "counts": {},
            "splits": {
                name: {"content_sha256": f"{data_dir} {name}", "images": n, "patients": 9}
                | {"positive": n // 3}
                for name, n in SIZES.items()
            },
        }
        for seed, (name, n) in enumerate(SIZES.items()):
            images = np.random.default_rng(seed).integers(256, size=(n, 32, 32), dtype=np.uint8)
            columns = make_columns(n, seed, f"{data_dir}-{name}")
            splits[data_dir, name] = Split(name, images, columns, manifest)

    def open_splits(data_dir, dataset, image_size, folds=0, fold=0):
        def load(split):
            if (data_dir, split) not in splits:
                raise UserError(f"no prepared data in {data_dir}")
            return splits[data_dir, split]

        return load

    monkeypatch.setattr("cbam_flax.evaluate.run.open_splits", open_splits)
    return splits


def read(workdir, name="test"):
    folder = workdir / "evaluation" / name
    with (folder / "predictions.csv").open() as file:
        return json.loads((folder / "metrics.json").read_text()), list(csv.DictReader(file))


def flip_labels(split):
    return Split(split.name, split.images, split.columns | {"label": 1 - split.labels}, {
        **split.manifest
    })  # fmt: skip


def test_the_folder_is_whole(workdir, data, monkeypatch):
    monkeypatch.setattr(saliency, "METHODS", {"attention": saliency.attention})
    metrics = evaluate_workdir(str(workdir), resamples=50, explained=8)
    stored, rows = read(workdir)
    assert stored == json.loads(json.dumps(metrics))
    names = {path.name for path in (workdir / "evaluation" / "test").iterdir()}
    assert {"report.html", "roc.png", "subgroups.png", "mistakes.png", "examples.png"} <= names
    assert len(rows) == len({row["image_id"] for row in rows}) == 50
    label = [int(row["label"]) for row in rows]
    auroc = roc_auc_score(label, [float(row["probability"]) for row in rows])
    assert metrics["auroc"]["value"] == pytest.approx(auroc, abs=1e-5)
    assert metrics["localisation"]["n"] == 8
    assert "attention" in metrics["localisation"]["scores"]
    assert metrics["provenance"]["checkpoint_step"] == 5
    assert not metrics["external"]
    assert list((workdir / "tensorboard").iterdir())
    page = (workdir / "evaluation" / "test" / "report.html").read_text()
    assert all(f"id={name}" in page for name in ("operating-point", "mistakes-1", "examples-6"))


def test_probabilities_are_the_calibrated_ones(workdir, data, plain):
    evaluate_workdir(str(workdir), **QUICK)
    fitted = read(workdir)[0]["calibration"]
    for row in read(workdir)[1]:
        z = fitted["scale"] * float(row["logit"]) + fitted["bias"]
        assert float(row["probability"]) == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-7)
    assert fitted["n"] == SIZES["validation"]
    assert (fitted["split"], fitted["step"]) == ("validation", 5)


def test_figures_do_not_depend_on_batch_size_or_devices(workdir, data, plain, monkeypatch):
    files = set()
    for devices, batch_size in ((1, 1), (1, 7), (1, 64), (8, 7)):
        mesh = sharding.make_mesh({"data": -1, "fsdp": 1, "spatial": 1}, jax.devices()[:devices])
        monkeypatch.setattr(predict_split, "make_mesh", lambda _, mesh=mesh: mesh)
        evaluate_workdir(str(workdir), batch_size=batch_size, **QUICK)
        folder = workdir / "evaluation" / "test"
        files.add(
            ((folder / "metrics.json").read_bytes(), (folder / "predictions.csv").read_bytes())
        )
        shutil.rmtree(folder)  # so that the calibration is fitted again
    assert len(files) == 1


def test_test_labels_reach_neither_calibration_nor_operating_point(workdir, data, plain):
    evaluate_workdir(str(workdir), **QUICK)
    before, rows = read(workdir)
    shutil.rmtree(workdir / "evaluation")
    data["home", "test"] = flip_labels(data["home", "test"])
    evaluate_workdir(str(workdir), **QUICK)
    after, flipped = read(workdir)
    assert after["auroc"]["value"] == pytest.approx(1 - before["auroc"]["value"], abs=1e-5)
    assert after["calibration"] == before["calibration"]
    assert after["threshold"] == before["threshold"]
    assert [row["probability"] for row in flipped] == [row["probability"] for row in rows]


def test_calibration_follows_the_validation_labels(workdir, data, plain):
    before = evaluate_workdir(str(workdir), **QUICK)["calibration"]
    shutil.rmtree(workdir / "evaluation")
    data["home", "validation"] = flip_labels(data["home", "validation"])
    assert evaluate_workdir(str(workdir), **QUICK)["calibration"] != before


def test_every_evaluation_keeps_its_own_calibration(workdir, data, plain):
    chosen = evaluate_workdir(str(workdir), criterion="sensitivity=0.8", **QUICK)
    again = evaluate_workdir(str(workdir), name="again", **QUICK)  # nothing asked for
    assert again["calibration"] == chosen["calibration"]
    other = evaluate_workdir(str(workdir), criterion="youden", name="other", **QUICK)
    assert other["calibration"]["criterion"] == "youden"
    assert read(workdir)[0]["calibration"] == chosen["calibration"]
    assert read(workdir, "other")[0]["threshold"] != read(workdir)[0]["threshold"]


def test_a_calibration_of_other_weights_or_one_that_was_changed_is_not_used(workdir, data, plain):
    fitted = evaluate_workdir(str(workdir), **QUICK)["calibration"]
    path = workdir / "evaluation" / "test" / "metrics.json"
    whole = path.read_text()
    path.write_text(whole.replace('"scale": ', '"scale": 1'))
    assert evaluate_workdir(str(workdir), name="new", **QUICK)["calibration"] == fitted
    path.write_text(whole)
    (workdir / "evaluation" / "test" / folders.MARKER).unlink()
    weights = json.loads(whole)["provenance"]["weights_sha256"]
    path.write_text(whole.replace(weights, "0" * 64).replace('"scale": ', '"scale": 1'))
    shutil.rmtree(workdir / "evaluation" / "new")
    assert evaluate_workdir(str(workdir), name="new", **QUICK)["calibration"] == fitted


def test_validation_is_evaluated_with_a_warning(workdir, data, plain):
    metrics = evaluate_workdir(str(workdir), "validation", **QUICK)
    assert metrics["n"] == SIZES["validation"]
    assert "chosen on this split" in metrics["warnings"][-1]
    auroc, *warnings, report = run_lib.conclusion("runs/x", metrics)
    assert f"45 images of the validation split: AUROC {metrics['auroc']['value']:.3f} (" in auroc
    assert warnings == [f"warning: {text}" for text in metrics["warnings"]]
    assert report == "report: runs/x/evaluation/validation/report.html"
    assert "warnings: none" in run_lib.conclusion("runs/x", metrics | {"warnings": []})


def test_external_data_keep_the_runs_calibration(workdir, data, plain):
    fitted = evaluate_workdir(str(workdir), **QUICK)["calibration"]
    metrics = evaluate_workdir(str(workdir), data_dir="other hospital", **QUICK)
    assert metrics["external"]
    assert metrics["calibration"] == fitted
    assert metrics["baselines"] is not None  # fitted on the run's own training split
    assert set(path.name for path in (workdir / "evaluation").iterdir()) == {
        "test",
        "rsna_pneumonia-32px-1.0.0-test",
    }
    _, rows = read(workdir, "rsna_pneumonia-32px-1.0.0-test")
    assert all(row["image_id"].startswith("other hospital") for row in rows)


def test_external_data_without_the_runs_own(workdir, data, plain):
    evaluate_workdir(str(workdir), **QUICK)
    for split in SIZES:
        del data["home", split]
    metrics = evaluate_workdir(str(workdir), data_dir="other hospital", name="elsewhere", **QUICK)
    assert metrics["baselines"] is None
    assert "not available" in metrics["warnings"][0]
    assert (workdir / "evaluation" / "elsewhere" / "report.html").exists()


def test_data_are_opened_once(workdir, data, plain, monkeypatch):
    opened, open_splits = [], run_lib.open_splits
    monkeypatch.setattr(
        run_lib, "open_splits", lambda *where: opened.append(where[0]) or open_splits(*where)
    )
    evaluate_workdir(str(workdir), **QUICK)
    assert opened == ["home"]
    evaluate_workdir(str(workdir), data_dir="other hospital", **QUICK)
    assert opened[1:] == ["other hospital", "home"]


def test_data_that_moved_are_still_the_runs_own(workdir, data, plain):
    for split in SIZES:
        data["moved", split] = data.pop(("home", split))
    metrics = evaluate_workdir(str(workdir), data_dir="moved", **QUICK)
    assert not metrics["external"]
    assert metrics["calibration"]["n"] == SIZES["validation"]


def test_data_that_changed_are_refused(workdir, data, plain):
    data["home", "test"].manifest["splits"]["train"]["content_sha256"] = "other content"
    with pytest.raises(UserError, match="no longer holds the data"):
        evaluate_workdir(str(workdir), **QUICK)
    assert not (workdir / "evaluation").exists()


def test_what_a_user_keeps_in_the_folder_stays(workdir, data, plain, monkeypatch):
    evaluate_workdir(str(workdir), **QUICK)
    folder = workdir / "evaluation" / "test"
    (folder / "notes.txt").write_text("mine")
    evaluate_workdir(str(workdir), **QUICK)
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "report.html").write_text("with my remarks")
    monkeypatch.setattr(run_lib.ensemble, "predict_split", None)  # nothing is computed
    with pytest.raises(UserError, match=r"report\.html was changed since"):
        evaluate_workdir(str(workdir), **QUICK)
    assert (folder / "report.html").read_text() == "with my remarks"
    with pytest.raises(UserError, match="is no plain folder name"):
        evaluate_workdir(str(workdir), name="../checkpoints")
    (workdir / "evaluation" / "linked").symlink_to(workdir / "checkpoints")
    with pytest.raises(UserError, match="is itself an input"):
        evaluate_workdir(str(workdir), name="linked", **QUICK)


def test_an_evaluation_of_the_version_before_is_replaced(workdir, data, plain):
    evaluate_workdir(str(workdir), **QUICK)
    folder = workdir / "evaluation" / "test"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / folders.MARKER).unlink()
    evaluate_workdir(str(workdir), **QUICK)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_summary_is_quick_and_agrees(workdir, data, plain):
    restored = checkpoint.load_for_inference(str(workdir))
    predictions = predict_split.predict_split(
        restored.model, restored.variables, data["home", "test"], 16
    )
    found = validation.summarise(predictions)
    metrics = evaluate_workdir(str(workdir), **QUICK)
    for name in ("auroc", "average_precision"):  # of the order alone, so calibration keeps them
        assert found[name] == pytest.approx(metrics[name]["value"], abs=1e-5)
    assert found["log_loss"] == pytest.approx(metrics["uncalibrated"]["log_loss"]["value"])
