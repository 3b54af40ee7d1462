import functools

import jax
import numpy as np
import pytest

from cbam_flax.models import attention_maps, create_model, highest, infer_with_maps

IMAGES = np.random.default_rng(0).random((3, 32, 32, 1), np.float32)
TINY = {"width": 0.0625, "reduction": 4, "hidden": 16, "dtype": "float32"}


def inferred(model, variables, of):
    found = infer_with_maps(model, variables, IMAGES)
    return found.logits, found.gate, found.grad_cam(of(found.logits))


@pytest.mark.parametrize("changes", [{}, {"attention": "se", "findings": 3}])
def test_logits_and_gate_are_the_models_own(changes, draw_variables):
    model = create_model(TINY | changes)
    variables = draw_variables(model, 32)
    logits, gate, cam = jax.jit(functools.partial(inferred, model, of=highest))(variables)
    expected, gates = jax.jit(functools.partial(attention_maps, model))(variables, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert cam.shape == (3, 4, 4)
    if gates:
        np.testing.assert_allclose(gate, gates["block4"], rtol=1e-5)
    else:
        assert gate is None


def test_of_several_findings_the_weights_choose(draw_variables):
    """The other findings' weights in the last layer do not matter."""
    model = create_model(TINY | {"findings": 3})
    variables = draw_variables(model, 32)
    second = np.tile([0.0, -1.0, 0.0], (3, 1))  # as drawn, nothing raises this score
    infer = jax.jit(functools.partial(inferred, model, of=lambda _: second))
    before = infer(variables)[2]
    assert np.ptp(before) > 0
    kernel = variables["params"]["logit"]["kernel"]
    variables["params"]["logit"]["kernel"] = kernel * [1, 2, 5]
    np.testing.assert_allclose(infer(variables)[2], 2 * before, rtol=1e-4, atol=1e-6)


def test_highest_is_one_hot():
    assert highest(np.array([3.0, -1.0])).tolist() == [1, 1]
    assert highest(np.array([[0.1, 0.3], [0.2, 0.0]])).tolist() == [[0, 1], [1, 0]]
