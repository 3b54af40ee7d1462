import jax
import numpy as np
import pytest

from cbam_flax.export import artefacts, verification
from cbam_flax.predict.bundle import ARTEFACTS
from data_prep.cli import UserError

EXPECTED = {"probability": np.array([0.2, 0.7]), "attention": np.full((2, 4, 4), 0.5)}


def test_check_images_fill_the_input_range_and_never_change():
    images = verification.check_images(32)
    assert images.shape == (5, 32, 32, 1)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    assert 0.2 < images.std() < 0.4
    np.testing.assert_array_equal(images, verification.check_images(32))
    # Structure at the scale of the image, not only pixel noise.
    means = images[..., 0].reshape(5, 4, 8, 4, 8).mean((2, 4))
    assert means.std() > 0.1


def fake_run(change: dict[str, dict[str, np.ndarray]]):
    return lambda folder, inputs, runtime: EXPECTED | change.get(runtime, {})


def test_equal_artefacts_pass_and_their_differences_are_told(tmp_path, monkeypatch):
    change = {"onnx": {"probability": np.array([0.2, 0.70003])}}
    monkeypatch.setattr(verification, "_run_alone", fake_run(change))
    change["jax:cuda"] = {"attention": np.full((2, 4, 4), 0.50002)}
    found = verification.verify(tmp_path, np.zeros((2, 32, 32, 1), np.float32), EXPECTED, {})
    differences = found["max_difference"]
    assert set(differences) == set(ARTEFACTS.values())
    assert differences["model.onnx"] == pytest.approx(3e-5)
    assert differences["saved_model"] == 0
    assert differences["model.stablehlo"] == pytest.approx(2e-5)  # of its worst branch
    by_platform = {name: each["max_difference"] for name, each in found["platforms"].items()}
    assert by_platform == {"cpu": 0, "cuda": pytest.approx(2e-5), "tpu": pytest.approx(2e-5)}
    assert [name for name, each in found["platforms"].items() if each["compiled"]] == ["cpu"]


@pytest.mark.parametrize(
    ("runtime", "output", "value", "name"),
    [
        ("jax", "probability", np.array([0.2, 0.7002]), "model.stablehlo"),
        ("jax:cuda", "probability", np.array([0.2, 0.7002]), "model.stablehlo holds for GPUs.*"),
        ("tensorflow", "attention", np.full((2, 4, 4), 0.51), "saved_model"),
        ("onnx", "probability", np.array([0.2, np.nan]), "model.onnx"),
    ],
)
def test_a_mismatch_anywhere_fails_the_export(tmp_path, monkeypatch, runtime, output, value, name):
    monkeypatch.setattr(verification, "_run_alone", fake_run({runtime: {output: value}}))
    with pytest.raises(UserError, match=f"{name} differs from the training code"):
        verification.verify(tmp_path, np.zeros((2, 32, 32, 1), np.float32), EXPECTED, {})


def test_an_artefact_that_does_not_run_fails_the_export(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    np.save(tmp_path / "images.npy", np.zeros((1, 32, 32, 1), np.float32))
    with pytest.raises(UserError, match=r"model\.onnx was written but does not run: .+"):
        verification._run_alone(tmp_path, tmp_path / "images.npy", "onnx")


def test_an_artefact_is_run_alone_without_this_project(tmp_path):
    def infer(images):
        return {"probability": images.mean((1, 2, 3)), "attention": images[..., 0] * 2}

    artefacts.write_stablehlo(tmp_path / "model.stablehlo", infer, 32)
    images = verification.check_images(32)
    np.save(tmp_path / "images.npy", images)
    outputs = verification._run_alone(tmp_path, tmp_path / "images.npy", "jax")
    np.testing.assert_allclose(outputs["probability"], images.mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(outputs["attention"], images[..., 0] * 2)


def test_what_a_file_holds_for_gpus_is_run_on_a_cpu(tmp_path):
    """A branch that differs, as if its ops were wrong, is found though no GPU is there."""

    def infer(images):
        def branch(factor):
            return lambda x: {"probability": factor * x.mean((1, 2, 3))}

        return jax.lax.platform_dependent(images, cpu=branch(1), default=branch(2))

    artefacts.write_stablehlo(tmp_path / "model.stablehlo", infer, 32)
    images = verification.check_images(32)
    np.save(tmp_path / "images.npy", images)
    for name, factor in (("jax", 1), ("jax:cuda", 2), ("jax:tpu", 2)):
        outputs = verification._run_alone(tmp_path, tmp_path / "images.npy", name)
        np.testing.assert_allclose(outputs["probability"], factor * images.mean((1, 2, 3)), 1e-5)
