import numpy as np
import pytest

from cbam_flax.predict import results, saliency
from data_prep.cli import UserError

FIGURE = {"value": 0.571, "low": 0.44, "high": 0.694}
ONE = {
    "labels": ["clear", "pneumonia"],
    "outputs": {"probability": {}, "attention": {}, "grad_cam": {}},
    "operating_point": {"threshold": 0.25},
    "calibration": {"scale": 2.0, "bias": -0.5},
    "saliency": {"method": "occlusion", "pointing": {"grad_cam": FIGURE}, "images": 1100},
}
SEVERAL = {
    "findings": ["Mass", "Hernia"],
    "outputs": ONE["outputs"],
    "operating_point": {name: {"threshold": 0.5} for name in ("Mass", "Hernia")},
    "calibration": {"Mass": {"scale": 1.0, "bias": 0.5}, "Hernia": {"scale": 4.0, "bias": 1.0}},
}
OLD = ONE | {"outputs": {"probability": {}, "attention": {}}, "saliency": None}
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 32, 32), np.uint8)
KERNEL = RNG.normal(size=(32, 32)) / 3000


def run(images):
    """A logit is a weighted sum of the pixels, of several findings these weights and others."""
    logit = np.stack([(images * KERNEL).sum((1, 2)), (images * KERNEL.T).sum((1, 2))], axis=1)
    return {"logit": logit, "probability": 1 / (1 + np.exp(-(2 * logit - 0.5)))[:, 0]}


def test_the_bundles_own_method_is_taken_unless_another_is_asked_for():
    assert saliency.choose(ONE, None) == "occlusion"
    assert saliency.choose(ONE, "grad_cam") == "grad_cam"
    assert saliency.choose(OLD, None) == "gate"
    assert saliency.choose({"outputs": OLD["outputs"]}, None) == "gate"
    assert saliency.choose(OLD, "occlusion") == "occlusion"
    with pytest.raises(UserError, match=r"without Grad-CAM; give --saliency=gate or"):
        saliency.choose(OLD, "grad_cam")


def test_the_merit_is_the_pointing_game_or_that_it_is_unknown():
    assert saliency.merit(ONE, "grad_cam") == (
        "its maximum lay in a box in 57 % (44 to 69) of 1,100 positive images"
    )
    for bundle, method in ((ONE, "occlusion"), (SEVERAL, "grad_cam"), (OLD, "gate")):
        assert saliency.merit(bundle, method) == "where it looks was not evaluated"


def test_maps_of_the_bundles_function_are_taken_as_they_are():
    outputs = {"attention": np.ones((3, 4, 4)), "grad_cam": np.zeros((3, 4, 4))}
    assert saliency.maps(ONE, "gate", run, IMAGES, outputs) is outputs["attention"]
    assert saliency.maps(ONE, "grad_cam", run, IMAGES, outputs) is outputs["grad_cam"]


def covered(i: int, j: int) -> np.ndarray:
    """Cell (i, j) of 8 has its centre at 4 i + 2; the square reaches 4 pixels to each side."""
    images = IMAGES.copy()
    grey = IMAGES.mean(axis=(1, 2)).astype(np.uint8)
    rows, columns = (slice(max(4 * k - 2, 0), 4 * k + 6) for k in (i, j))
    images[:, rows, columns] = grey[:, None, None]
    return images


def test_occlusion_is_the_fall_of_the_logit():
    found = saliency.maps(ONE, "occlusion", run, IMAGES, run(IMAGES))
    assert found.shape == (3, 8, 8)
    assert found.dtype == np.float32
    for i, j in ((0, 0), (2, 5), (7, 3)):
        fall = (run(IMAGES)["logit"] - run(covered(i, j))["logit"])[:, 0]
        np.testing.assert_allclose(found[:, i, j], np.maximum(fall, 0), atol=1e-6)
    assert 0.1 < (found > 0).mean() < 0.9


def test_occlusion_is_of_the_finding_with_the_highest_probability():
    def several(images):
        logit = run(images)["logit"]
        return {"probability": 1 / (1 + np.exp(-(logit * [1, 4] + [0.5, 1])))}

    outputs = several(IMAGES)
    highest = np.array([1, 0, 1])
    outputs["probability"] = np.where(np.eye(2)[highest], 0.9, 0.1)
    found = saliency.maps(SEVERAL, "occlusion", several, IMAGES, outputs)
    fall = np.maximum(run(IMAGES)["logit"] - run(covered(2, 5))["logit"], 0)
    np.testing.assert_allclose(found[:, 2, 5], fall[np.arange(3), highest], atol=1e-6)


def test_a_probability_of_one_has_a_finite_map():
    def certain(images):
        return {"probability": np.float32([1, 0, 1]) + 0 * images[:, 0, 0]}

    found = saliency.maps(ONE, "occlusion", certain, IMAGES, certain(IMAGES))
    assert not found.any()


def result(values, probability=0.5):
    return results.Result(None, [], probability, map=np.array(values, np.float32))


def test_the_line_of_a_map_says_what_it_is_and_what_it_is_worth():
    line = results.map_line(result([[0, 2]]), ONE, "grad_cam")
    assert line == (
        "map: Grad-CAM (no unit, scaled to this image); its maximum lay in a box in 57 % "
        "(44 to 69) of 1,100 positive images"
    )
    several = result([[0, 2]], np.float32([0.2, 0.4]))
    assert results.map_line(several, SEVERAL, "grad_cam").startswith("map: Grad-CAM of Hernia (")
    assert results.map_line(several, SEVERAL, "gate").startswith("map: spatial gate (")


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        ("grad_cam", [[0, 0]], "no map: Grad-CAM is zero everywhere: nothing in the last block"),
        ("occlusion", [[0, 0]], "no map: occlusion is zero everywhere: covering no part"),
        ("gate", [[0.7, 0.7]], "no map: the spatial gate is equally open everywhere"),
        ("gate", [[0]], "no map: this model has no spatial gate"),
    ],
)
def test_a_blank_map_says_why(method, values, words):
    assert results.map_line(result(values), ONE, method).startswith(words)
