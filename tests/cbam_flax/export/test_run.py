import functools
import json

import numpy as np
import pytest

from cbam_flax.export import artefacts, run
from cbam_flax.predict.bundle import ARTEFACTS
from data_prep.cli import UserError
from data_prep.files import folders

EXPECTED = {"probability": np.array([0.2, 0.7]), "attention": np.full((2, 4, 4), 0.5)}


def test_check_images_fill_the_input_range_and_never_change():
    images = run.check_images(32)
    assert images.shape == (5, 32, 32, 1)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    assert 0.2 < images.std() < 0.4
    np.testing.assert_array_equal(images, run.check_images(32))
    # Structure at the scale of the image, not only pixel noise.
    means = images[..., 0].reshape(5, 4, 8, 4, 8).mean((2, 4))
    assert means.std() > 0.1


def fake_run(change: dict[str, dict[str, np.ndarray]]):
    return lambda folder, inputs, runtime: EXPECTED | change.get(runtime, {})


def test_equal_artefacts_pass_and_their_differences_are_told(tmp_path, monkeypatch):
    change = {"onnx": {"probability": np.array([0.2, 0.70003])}}
    monkeypatch.setattr(run, "_run_alone", fake_run(change))
    differences = run.verify(tmp_path, np.zeros((2, 32, 32, 1), np.float32), EXPECTED, {})
    assert set(differences) == set(ARTEFACTS.values())
    assert differences["model.onnx"] == pytest.approx(3e-5)
    assert differences["model.stablehlo"] == 0


@pytest.mark.parametrize(
    ("runtime", "output", "value"),
    [
        ("jax", "probability", np.array([0.2, 0.7002])),
        ("tensorflow", "attention", np.full((2, 4, 4), 0.51)),
        ("onnx", "probability", np.array([0.2, np.nan])),
    ],
)
def test_a_mismatch_in_any_artefact_fails_the_export(tmp_path, monkeypatch, runtime, output, value):
    monkeypatch.setattr(run, "_run_alone", fake_run({runtime: {output: value}}))
    with pytest.raises(UserError, match=f"{ARTEFACTS[runtime]} differs from the training code"):
        run.verify(tmp_path, np.zeros((2, 32, 32, 1), np.float32), EXPECTED, {})


def test_a_difference_of_grad_cam_is_in_units_of_its_range(tmp_path, monkeypatch):
    expected = {"grad_cam": np.array([[[0.0, 0.002]]])}
    found = {"grad_cam": np.array([[[0.0, 0.002001]]])}
    monkeypatch.setattr(run, "_run_alone", lambda *_: found)
    verify = functools.partial(run.verify, tmp_path, np.zeros((1, 32, 32, 1)), expected)
    assert verify({"grad_cam": 0.02})["model.onnx"] == pytest.approx(5e-5)
    with pytest.raises(UserError, match=r"from the training code by 0\.0005"):
        verify({"grad_cam": 0.002})
    assert verify({"grad_cam": 0.0})["model.onnx"] == pytest.approx(1e-6)  # zero everywhere


def test_an_artefact_that_does_not_run_fails_the_export(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    np.save(tmp_path / "images.npy", np.zeros((1, 32, 32, 1), np.float32))
    with pytest.raises(UserError, match=r"model\.onnx was written but does not run: .+"):
        run._run_alone(tmp_path, tmp_path / "images.npy", "onnx")


def test_an_artefact_is_run_alone_without_this_project(tmp_path):
    def infer(images):
        return {"probability": images.mean((1, 2, 3)), "attention": images[..., 0] * 2}

    artefacts.write_stablehlo(tmp_path / "model.stablehlo", infer, 32)
    images = run.check_images(32)
    np.save(tmp_path / "images.npy", images)
    outputs = run._run_alone(tmp_path, tmp_path / "images.npy", "jax")
    np.testing.assert_allclose(outputs["probability"], images.mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(outputs["attention"], images[..., 0] * 2)


def test_what_no_reader_would_take_is_not_exported(tmp_path):
    description = {"calibration": {}, "labels": ["no pneumonia", "pneumonia"]}
    with pytest.raises(UserError, match=r"cannot be exported: input\.shape is missing"):
        run.write_bundle(tmp_path, [], description, str)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_of_the_version_before_is_known_by_its_hashes(tmp_path):
    assert run.earlier_bundle(tmp_path) == {}
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "notes.txt").write_text("mine")
    files = {"model.onnx": {"bytes": 5, "sha256": folders.sha256(tmp_path / "model.onnx")}}
    (tmp_path / "bundle.json").write_text(json.dumps({"schema": 1, "files": files}))
    found = run.earlier_bundle(tmp_path)
    assert found.keys() == {"model.onnx", "bundle.json"}
    options = {"index": "bundle.json", "outputs": ["model.onnx"], "earlier": run.earlier_bundle}
    folders.check(tmp_path, "cbam_flax.export", **options)
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(UserError, match=r"model\.onnx was changed since"):
        folders.check(tmp_path, "cbam_flax.export", **options)


@pytest.mark.parametrize("files", [None, [], {}, {"a": None}, {"a": {"sha256": 1}}])
def test_a_bundle_json_of_somebody_else_stays_theirs(tmp_path, files):
    (tmp_path / "bundle.json").write_text(json.dumps({"files": files}))
    assert run.earlier_bundle(tmp_path) == {}


def test_a_bundle_is_not_written_over_its_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for out, words in ((".", "holds the input"), ("checkpoints", "is itself an input")):
        with pytest.raises(UserError, match=words):
            run.export_workdir(str(tmp_path), tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
