"""ONNX and SavedModel are tested with the commands, in tests/integration/test_export_predict.py."""

import dataclasses
import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from cbam_flax.evaluate import saliency
from cbam_flax.export import artefacts
from cbam_flax.models import create_model
from cbam_flax.models.saliency import Inference
from cbam_flax.predict import runtimes

SIZE = 32
CALIBRATION = {"scale": 1.7, "bias": -0.4}


@pytest.fixture(scope="module")
def model(draw_variables):
    model = create_model({"width": 0.0625, "reduction": 4, "hidden": 16, "dtype": "float32"})
    return model, draw_variables(model, SIZE)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((5, SIZE, SIZE, 1), np.float32)


def test_calibration_and_sigmoid_are_inside(model, images):
    outputs = jax.jit(artefacts.inference_function([model], CALIBRATION))(images)
    logits = np.asarray(jax.jit(model[0].apply)(model[1], images), np.float64)
    expected = scipy.special.expit(1.7 * logits - 0.4)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(outputs["probability"], expected, rtol=1e-5)
    assert {value.dtype for value in outputs.values()} == {jnp.dtype("float32")}


def test_attention_is_the_gate_of_the_last_block(model, images):
    attention = jax.jit(artefacts.inference_function([model], CALIBRATION))(images)["attention"]
    assert attention.shape == (5, SIZE // 8, SIZE // 8)
    apply = jax.jit(functools.partial(model[0].apply, mutable=["intermediates"]))
    _, sown = apply(model[1], images)
    gate = sown["intermediates"]["block4"]["cbam"]["spatial"]["gate"][0]
    np.testing.assert_allclose(attention, gate[..., 0], rtol=1e-5)


def test_grad_cam_is_that_of_evaluation(model, images):
    grey = (255 * images[..., 0]).astype(np.uint8)
    infer = artefacts.inference_function([model], CALIBRATION)
    found = jax.jit(infer)(grey[..., None] / np.float32(255))["grad_cam"]
    expected = saliency.maps("grad_cam", *model, grey)
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.max())


def toy(model, variables, images):
    """A logit is a pixel times the variable, a gate is the variable, Grad-CAM the weights of it."""
    gate = jnp.full((len(images), 2, 2), variables) if model == "gated" else None

    def grad_cam(of):
        return jnp.broadcast_to((of * variables)[:, None, None], (len(images), 2, 2))

    return Inference(variables * images[:, 3, 0, 0], gate, grad_cam)


def test_a_model_without_a_spatial_gate_has_an_empty_map(images, monkeypatch):
    monkeypatch.setattr("cbam_flax.models.infer_with_maps", toy)
    outputs = artefacts.inference_function([("bare", 1.0)], CALIBRATION)(images)
    assert outputs["attention"].shape == (5, 1, 1)
    assert not outputs["attention"].any()
    assert (outputs["grad_cam"] == 1).all()
    expected = scipy.special.expit(1.7 * images[:, 3, 0, 0] - 0.4)
    np.testing.assert_allclose(outputs["probability"], expected, rtol=1e-5)


@pytest.mark.parametrize("combine", ["logit", "probability"])
@pytest.mark.parametrize("tta", [None, "flip"])
def test_members_score_together_as_in_evaluation(images, monkeypatch, combine, tta):
    monkeypatch.setattr("cbam_flax.models.infer_with_maps", toy)
    pixel = (images[:, 3, 0, 0] + images[:, 3, -1, 0]) / 2 if tta else images[:, 3, 0, 0]
    logits = np.outer([5.0, -2.0], pixel)
    if combine == "logit":
        logit = logits.mean(axis=0)
    else:
        logit = scipy.special.logit(scipy.special.expit(logits).mean(axis=0))
    members = [("gated", 5.0), ("gated", -2.0)]
    outputs = artefacts.inference_function(members, CALIBRATION, combine, tta)(images)
    expected = scipy.special.expit(1.7 * logit - 0.4)
    np.testing.assert_allclose(outputs["probability"], expected, rtol=1e-5)
    spread = np.std(scipy.special.expit(1.7 * logits - 0.4), axis=0)
    np.testing.assert_allclose(outputs["spread"], spread, rtol=1e-5)
    for name in ("attention", "grad_cam"):
        np.testing.assert_allclose(outputs[name], np.full((5, 2, 2), 1.5))
    without = artefacts.inference_function([*members[:1], ("bare", 1.0)], CALIBRATION)(images)
    assert without["attention"].shape == (5, 1, 1)


def test_grad_cam_is_of_the_finding_with_the_highest_probability(images, monkeypatch):
    """Of each member too, whatever it ranks first by itself: the ensemble's is explained."""

    def several(model, variables, images):
        logits = jnp.array(variables) * jnp.ones((len(images), 1))
        number = lambda of: jnp.broadcast_to(  # noqa: E731
            (of @ jnp.arange(3.0))[:, None, None], (len(images), 2, 2)
        )
        return Inference(logits, None, number)

    monkeypatch.setattr("cbam_flax.models.infer_with_maps", several)
    members = [(None, [1.0, 0.0, 3.0]), (None, [1.0, 4.0, 0.0])]
    lines = {"scale": np.float32([1, 1, 1]), "bias": np.float32([0, 0, 9])}
    outputs = artefacts.inference_function(members, lines)(images)
    assert outputs["probability"].argmax(axis=1).tolist() == [2] * 5
    assert (outputs["grad_cam"] == 2).all()
    lines["bias"] = np.float32([0, 0, -9])
    assert (artefacts.inference_function(members, lines)(images)["grad_cam"] == 1).all()


# And whether the maps of a batch fit a CPU's cache, or those of one image.
SWITCHES = [
    ({"preset": "notebook"}, True),
    ({"attention": "none", "head": "gap", "context": "none"}, False),
    ({"attention": "se", "pooling": "max", "findings": 3}, True),
    ({"attention": "spatial", "spatial_norm": "batch", "pooling": "avg"}, False),
]


@pytest.mark.parametrize(("switches", "fits"), SWITCHES, ids=str)
def test_the_branches_compute_the_same_for_any_batch(draw_variables, monkeypatch, switches, fits):
    """In float64, of a batch whose size the export does not know."""
    monkeypatch.setattr("cbam_flax.models.ops.table.CACHED", 2**22 if fits else 1)
    settings = {"width": 0.0625, "reduction": 4, "hidden": 16, "dtype": "float64"}
    with jax.enable_x64(True):
        model = create_model(settings | {"param_dtype": "float64"} | switches, platform="any")
        variables = jax.tree.map(np.float64, draw_variables(model, SIZE))
        infer = artefacts.function_by_platform([(model, variables)], CALIBRATION)
        batch = jax.export.symbolic_shape(f"batch, {SIZE}, {SIZE}, 1")
        images = jax.ShapeDtypeStruct(batch, np.float64)
        exported = jax.export.export(jax.jit(infer), platforms=artefacts.PLATFORMS)(images)
        assert ("stablehlo.while" in exported.mlir_module()) == (not fits)
        swapped = dataclasses.replace(exported, platforms=("cuda", "cpu", "tpu"))
        for count in (1, 3):
            images = np.random.default_rng(0).random((count, SIZE, SIZE, 1))
            outputs = jax.jit(exported.call)(images)
            others = jax.jit(swapped.call)(images)
            assert outputs.keys() == others.keys()
            for name, value in others.items():
                np.testing.assert_allclose(outputs[name], value, rtol=0, atol=1e-10)


def test_stablehlo_runs_on_three_platforms_at_any_batch_size(model, images, tmp_path):
    infer = artefacts.inference_function([model], CALIBRATION)
    both = artefacts.function_by_platform([model], CALIBRATION)
    artefacts.write_stablehlo(tmp_path / "m", both, SIZE)
    largest = max(jax.tree.leaves(model[1]), key=lambda leaf: leaf.nbytes)
    assert (tmp_path / "m").read_bytes().count(np.asarray(largest).tobytes()) == 1
    exported = jax.export.deserialize(bytearray((tmp_path / "m").read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    run = runtimes.load_jax(tmp_path / "m")
    for count in (1, 5):
        expected = jax.jit(infer)(images[:count])
        found = run(images[:count])
        for name in ("probability", "attention", "grad_cam"):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
