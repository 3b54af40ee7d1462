import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from cbam_flax import provenance
from cbam_flax.checkpoint import Restored
from cbam_flax.evaluate.ensemble import Ensemble
from cbam_flax.export import run_record
from cbam_flax.input_pipeline import Split
from cbam_flax.predict import schema
from data_prep.cli import UserError

FITTED = {
    "scale": 1.5,
    "bias": -0.5,
    "threshold": 0.3,
    "criterion": "youden",
    "step": 40,
    "split": "validation",
    "n": 1200,
    "n_positive": 300,
    "before": None,
    "after": None,
}
MANIFEST = {
    "dataset": "rsna_pneumonia/32px-squash/1.0.0",
    "preprocessing": {
        "image_size": 32,
        "aspect": "squash",
        "interpolation": "nearest",
        "voi": "none",
    },
    "split_scheme": "patient",
    "counts": {"inputs": 9, "accepted": 9, "rejected": 0, "flagged": {"synthetic": 9}},
    "splits": {
        name: {"images": 1, "patients": 1, "positive": 0, "content_sha256": content}
        for name, content in {"train": "ab", "validation": "cd", "test": "ef"}.items()
    },
}


def read(workdir, restored, evaluation=None):
    return run_record.read_run(str(workdir), Ensemble((restored,)), evaluation)


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


@pytest.fixture
def restored(tiny_config, tmp_path):
    records = tmp_path / "data" / "rsna_pneumonia" / "32px" / "1.0.0"
    records.mkdir(parents=True)
    (records / "manifest.json").write_text(json.dumps(MANIFEST))
    tiny_config.data_dir = str(tmp_path / "data")
    variables = {"params": {"a": np.arange(3.0), "b": {"c": np.ones((2, 2))}}}
    return Restored(tiny_config, None, variables, 40, {"train": "ab", "validation": "cd"})


@pytest.fixture
def evaluated(workdir, restored):
    """A function that writes an evaluation with some changes; `group__key` is a key of a group."""

    def write(name="test", **changes):
        weights = provenance.variables_sha256(restored.variables)
        metrics = {
            "name": name,
            "threshold": 0.3,
            "calibration": dict(FITTED),
            "warnings": ["SMALL: 9 positive"],
            "data": {"split_scheme": "patient"},
            "provenance": {
                "checkpoint_step": 40,
                "weights_sha256": weights,
                "trained_on": dict(restored.fingerprint),
                "config": {},
            },
        }
        for key, value in changes.items():
            *group, last = key.split("__")
            (metrics[group[0]] if group else metrics)[last] = value
        folder = workdir / "evaluation" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return metrics

    return write


def test_everything_comes_from_the_evaluation_that_is_named(workdir, restored, evaluated):
    evaluated()
    evaluated("sensitive", threshold=0.1, calibration__threshold=0.1)
    for name, threshold in (("test", 0.3), ("sensitive", 0.1)):
        described = run_record.describe(read(workdir, restored, name))
        assert described["operating_point"]["threshold"] == threshold
        assert described["operating_point"]["source"] == (
            "fitted on 1,200 images of the validation split"
        )
        assert described["evaluation"] == name


def test_without_an_evaluation_the_bundle_says_that_it_is_not_calibrated(workdir, restored):
    described = run_record.describe(read(workdir, restored))
    assert described["calibration"]["scale"] == 1.0
    assert described["operating_point"]["threshold"] == 0.5
    assert "not calibrated" in described["operating_point"]["source"]
    assert [text.partition(":")[0] for text in described["warnings"]] == [
        "SYNTHETIC",
        "UNCALIBRATED",
    ]
    assert read(workdir, restored).metrics is None
    with pytest.raises(UserError, match=r"elsewhere.metrics\.json cannot be read"):
        read(workdir, restored, "elsewhere")


def test_the_models_before_are_in_the_bundle_without_paths(workdir, restored):
    assert "ancestors" not in run_record.describe(read(workdir, restored))
    restored.config.init.from_run = "/elsewhere/parent"
    ancestors = [{"weights_sha256": "0" * 64, "dataset": "rsna", "step": 7}]
    tuned = dataclasses.replace(restored, ancestors=ancestors)
    described = run_record.describe(read(workdir, tuned))
    assert described["ancestors"] == ancestors
    assert described["config"]["init"]["from_run"] == "0" * 64
    assert "elsewhere" not in json.dumps(described)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"provenance__checkpoint_step": 20}, "is of step 20, and step 40 is exported"),
        ({"provenance__weights_sha256": "0" * 64}, "is of other weights than step 40 has"),
        ({"provenance__trained_on": {"train": "ab"}}, "trained on other data"),
        ({"threshold": 0.5}, "has two thresholds"),
        ({"tta": "flip"}, "was made with another --tta"),
        ({"calibration__scale": -1.0}, "out of range"),
    ],
)
def test_what_does_not_belong_together_is_refused(workdir, restored, evaluated, changes, words):
    evaluated(**changes)
    with pytest.raises(UserError, match=words):
        read(workdir, restored)


def test_data_that_changed_since_the_training_are_refused(workdir, restored, evaluated):
    evaluated()
    restored.fingerprint["validation"] = "other"
    with pytest.raises(UserError, match="no longer holds the validation split"):
        read(workdir, restored)


def test_the_description_is_what_inference_needs(workdir, restored, evaluated):
    evaluated()
    described = run_record.describe(read(workdir, restored))
    assert described["preprocessing"] == MANIFEST["preprocessing"]
    assert described["input"]["shape"] == ["batch", 32, 32, 1]
    assert described["operating_point"]["threshold"] == 0.3
    assert described["calibration"]["scale"] == 1.5
    assert [text.partition(":")[0] for text in described["warnings"]] == ["SYNTHETIC", "SMALL"]
    assert described["fingerprints"]["data"]["content_sha256"] == restored.fingerprint
    assert str(workdir) not in json.dumps(described)


def test_images_that_were_shrunk_are_described_with_both_sizes(workdir, restored):
    restored.config.image_size = 28  # of data at 32 px
    described = run_record.describe(read(workdir, restored))
    sizes = {"image_size": 28, "prepared_size": 32}
    assert described["preprocessing"] == MANIFEST["preprocessing"] | sizes
    assert described["input"]["shape"] == ["batch", 28, 28, 1]
    assert schema.fault(described | {"files": {}}) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "holds list"),
        ("{}", "lacks its"),
        ('{"provenance": 3}', "lacks"),
    ],
)
def test_a_broken_evaluation_is_named(workdir, restored, evaluated, text, words):
    evaluated()
    (workdir / "evaluation" / "test" / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=f"{words}.*; run cbam_flax.evaluate again"):
        read(workdir, restored)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "is not JSON"), ("3", "holds int"), ("{}", "has no")],
)
def test_a_damaged_manifest_is_one_sentence(workdir, restored, text, words):
    [path] = workdir.glob("data/*/*/*/manifest.json")
    path.write_text(text)
    with pytest.raises(UserError, match=f"{words}.*.*data_prep.prepare again"):
        read(workdir, restored)


def test_what_the_description_says_is_what_a_reader_takes(workdir, restored):
    described = run_record.describe(read(workdir, restored))
    assert schema.fault(described | {"files": {}}) is None


def test_the_grey_range_of_a_fold_is_that_of_the_prepared_images(workdir, restored, monkeypatch):
    loaded = []

    def load(data_dir, dataset, image_size, split, folds, fold):
        loaded.append(image_size)
        images = np.arange(32 * 32, dtype=np.uint8).reshape(1, 32, 32)
        return Split(split, images, {}, json.loads(json.dumps(MANIFEST)))

    monkeypatch.setattr("cbam_flax.input_pipeline.load_split", load)
    restored.config.update({"image_size": 28, "folds": 2})
    manifest = read(workdir, restored).manifest
    assert loaded == [32]
    assert manifest["splits"]["train"]["grey_range"]["levels"]["minimum"] == 256


def test_the_map_that_points_at_boxes_best_is_the_bundles(workdir, restored, evaluated):
    described = run_record.describe(read(workdir, restored))
    assert described["saliency"] == {"method": "grad_cam", "pointing": {}, "images": 0}
    assert described["outputs"]["grad_cam"]["meaning"] == "Grad-CAM of the last block, from 0"
    shares = {"attention": 0.3, "occlusion": 0.7, "grad_cam": 0.5, "random_grad_cam": 0.9}
    scores = {
        source: {"pointing": {"value": share, "low": 0.1, "high": 1.0}, "energy": {}}
        for source, share in shares.items()
    }
    evaluated(localisation={"n": 35, "scores": scores})
    found = run_record.describe(read(workdir, restored))["saliency"]
    assert (found["method"], found["images"]) == ("occlusion", 35)
    assert found["pointing"].keys() == {"gate", "grad_cam", "occlusion"}
    assert found["pointing"]["gate"] == {"value": 0.3, "low": 0.1, "high": 1.0}
    del scores["occlusion"]
    evaluated(localisation={"n": 35, "scores": scores})
    assert run_record.describe(read(workdir, restored))["saliency"]["method"] == "grad_cam"
    evaluated(localisation=None)  # the evaluation had no boxes, or --explained=0
    assert run_record.describe(read(workdir, restored))["saliency"]["pointing"] == {}
