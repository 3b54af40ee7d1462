import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbam_flax.evaluate import saliency
from cbam_flax.models import attention_maps, create_model
from cbam_flax.step import eval_step, scale_images


@pytest.fixture(scope="module")
def small(make_tiny_config):
    """The model's config without what these maps do not depend on, so that it compiles fast."""
    config = make_tiny_config().model
    config.context, config.pooling = "none", "max"
    return config


@pytest.fixture(scope="module")
def model(small):
    return create_model(small)


@pytest.fixture(scope="module")
def variables(model, draw_variables):
    drawn = draw_variables(model, 32)
    drawn["params"]["logit"]["kernel"] *= -1  # as drawn, Grad-CAM is zero throughout
    return drawn


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(256, size=(3, 32, 32), dtype=np.uint8)


def test_attention_is_the_last_blocks_gate(model, variables, images):
    read = jax.jit(functools.partial(attention_maps, model))
    _, gates = read(variables, scale_images(images))
    found = saliency.maps("attention", model, variables, images)
    np.testing.assert_allclose(found, gates["block4"], rtol=1e-5)
    assert found.shape == (3, 4, 4)


def test_grad_cam_is_its_definition(model, variables, images):
    """The weights of the channels from finite differences of the network behind the block."""

    @jax.jit
    def run(added):
        seen = []

        def add(method, args, kwargs, context):
            output = method(*args, **kwargs)
            if context.module.name != "block4":
                return output
            seen.append(output)
            return output + added

        with nn.intercept_methods(add):
            return eval_step(variables, images, model=model), seen[0]

    activation = run(jnp.zeros(16))[1]
    # One channel moved everywhere at once: its gradient, summed over the map.
    step = 0.01
    columns = [(run(step * one)[0] - run(-step * one)[0]) / (2 * step) for one in jnp.eye(16)]
    weights = jnp.stack(columns, axis=-1) / (4 * 4)
    expected = nn.relu((weights[:, None, None] * activation).sum(axis=-1))
    found = saliency.maps("grad_cam", model, variables, images)
    assert np.std(expected) > 0
    np.testing.assert_allclose(found, expected, atol=0.05 * expected.max())


def test_occlusion_is_the_fall_of_the_logit(model, variables, images):
    found = saliency.maps("occlusion", model, variables, images)
    assert found.shape == (3, 8, 8)
    covered = images.copy()
    # Cell (2, 5) of 8 has its centre at (10, 22); the square reaches 4 pixels to each side.
    covered[:, 6:14, 18:26] = images.mean(axis=(1, 2), keepdims=True).astype(np.uint8)
    forward = jax.jit(functools.partial(eval_step, model=model))
    before, after = (forward(variables, x) for x in (images, covered))
    np.testing.assert_allclose(found[:, 2, 5], np.maximum(0, before - after), atol=1e-4)
    assert np.abs(found[:, 2, 5]).max() > 1e-3


def test_a_last_batch_is_filled_up_and_cut_off(model, variables, images):
    many = np.concatenate([images] * 3)
    found = saliency.maps("attention", model, variables, many, batch_size=4)
    alone = saliency.maps("attention", model, variables, images, batch_size=4)
    np.testing.assert_allclose(found, np.concatenate([alone] * 3), atol=1e-6)


def test_a_model_without_a_gate_has_no_attention(small):
    without = create_model(small.to_dict() | {"attention": "se"})
    assert saliency.methods_of(without) == ["grad_cam", "occlusion"]


def test_recomputed_blocks_have_the_same_grad_cam(small, model, variables, images):
    recomputed = create_model(small.to_dict() | {"remat": True})
    found = saliency.maps("grad_cam", recomputed, variables, images)
    expected = saliency.maps("grad_cam", model, variables, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
