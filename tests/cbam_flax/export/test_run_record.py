import json
import types

import numpy as np
import pytest
from etils import epath

from cbam_flax.export import run_record
from cbam_flax.predict import schema
from data_prep.cli import UserError

FITTED = {
    "schema": 1,
    "scale": 1.5,
    "bias": -0.5,
    "threshold": 0.3,
    "criterion": "youden",
    "step": 40,
    "split": "validation",
    "n": 1200,
    "n_positive": 300,
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
        "train": {"images": 1, "patients": 1, "positive": 0, "content_sha256": "ab"},
    },
}


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path)


@pytest.fixture
def restored(tiny_config, tmp_path):
    records = tmp_path / "data" / "rsna_pneumonia" / "32px" / "1.0.0"
    records.mkdir(parents=True)
    (records / "manifest.json").write_text(json.dumps(MANIFEST))
    tiny_config.data_dir = str(tmp_path / "data")
    return types.SimpleNamespace(
        config=tiny_config,
        variables={"params": {"a": np.arange(3.0), "b": {"c": np.ones((2, 2))}}},
        step=40,
        fingerprint={"train": "t", "validation": "v"},
    )


def test_calibration_of_this_step_is_taken(workdir):
    (workdir / "calibration.json").write_text(json.dumps(FITTED))
    found = run_record.read_calibration(workdir / "calibration.json", 40)
    assert (found["scale"], found["bias"], found["threshold"]) == (1.5, -0.5, 0.3)
    assert found["source"] == "fitted on 1,200 images of the validation split"


def test_calibration_of_another_step_or_none_becomes_the_identity_and_says_so(workdir):
    path = workdir / "calibration.json"
    identity = {"scale": 1.0, "bias": 0.0, "threshold": 0.5, "criterion": "fixed"}
    found = run_record.read_calibration(path, 40)
    assert found == identity | {"source": found["source"]}
    assert "has no calibration.json" in found["source"]
    path.write_text(json.dumps(FITTED))
    found = run_record.read_calibration(path, 20)
    assert found == identity | {"source": found["source"]}
    assert "of step 40, not of step 20" in found["source"]


def test_the_description_is_what_inference_needs(workdir, restored):
    (workdir / "calibration.json").write_text(json.dumps(FITTED))
    described = run_record.describe(run_record.read_run(str(workdir), restored))
    assert described["preprocessing"] == MANIFEST["preprocessing"]
    assert described["input"]["shape"] == ["batch", 32, 32, 1]
    assert described["operating_point"]["threshold"] == 0.3
    assert described["calibration"]["scale"] == 1.5
    assert [text.partition(":")[0] for text in described["warnings"]] == ["SYNTHETIC"]
    assert described["fingerprints"]["data"]["content_sha256"] == restored.fingerprint
    assert str(workdir) not in json.dumps(described)


def test_only_metrics_of_this_checkpoint_are_taken(workdir, restored):
    folder = workdir / "evaluation" / "test"
    folder.mkdir(parents=True)
    assert run_record.read_run(str(workdir), restored).metrics is None
    for step, taken in ((20, False), (40, True)):
        metrics = {"provenance": {"checkpoint_step": step, "config": {}}, "threshold": 0.5}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        found = run_record.read_run(str(workdir), restored).metrics
        assert found == (metrics if taken else None)
    for text, words in (
        ("{", "is not JSON"),
        ("[]", "holds list"),
        ("{}", "does not say which checkpoint"),
        ('{"provenance": 3}', "does not say which checkpoint"),
    ):
        (folder / "metrics.json").write_text(text)
        with pytest.raises(UserError, match=f"{words}.*; evaluate the test split again"):
            run_record.read_run(str(workdir), restored)


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "is not JSON"), ("3", "holds int"), ("{}", "no preprocessing")],
)
def test_a_damaged_manifest_is_one_sentence(workdir, restored, text, words):
    [path] = workdir.glob("data/*/*/*/manifest.json")
    path.write_text(text)
    with pytest.raises(UserError, match=f"{words}.*; prepare the data again"):
        run_record.read_run(str(workdir), restored)


def test_what_the_description_says_is_what_a_reader_takes(workdir, restored):
    described = run_record.describe(run_record.read_run(str(workdir), restored))
    assert schema.fault(described | {"files": {}}) is None
