import functools

import jax
import numpy as np
import pytest

from cbam_flax import sharding
from cbam_flax.evaluate import predict_split
from cbam_flax.input_pipeline import Split
from cbam_flax.models import create_model
from cbam_flax.step import eval_step
from data_prep.cli import UserError


@pytest.fixture(scope="module")
def model(make_tiny_config):
    config = make_tiny_config().model
    config.context = "none"  # compiles faster
    return create_model(config)


@pytest.fixture(scope="module")
def variables(model, draw_variables):
    return draw_variables(model, 32)


@pytest.fixture(scope="module")
def split(make_columns):
    images = np.random.default_rng(0).integers(256, size=(37, 32, 32), dtype=np.uint8)
    return Split("test", images, make_columns(37), {"split_scheme": "patient"})


def mesh_of(devices):
    return sharding.make_mesh({"data": -1, "fsdp": 1, "spatial": 1}, jax.devices()[:devices])


@pytest.fixture(scope="module")
def reference(model, variables, split):
    return predict_split.predict_split(model, variables, split, 16, mesh_of(1))


def test_logits_are_those_of_the_plain_forward_pass(model, variables, split, reference):
    expected = jax.jit(functools.partial(eval_step, model=model))(variables, split.images)
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(reference["logit"], expected, atol=2e-4)
    np.testing.assert_allclose(reference["probability"], jax.nn.sigmoid(expected), atol=1e-4)


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (7, 1), (64, 1), (7, 8)])
def test_logits_do_not_depend_on_batch_size_or_devices(
    model, variables, split, reference, batch_size, devices, monkeypatch
):
    monkeypatch.setattr(predict_split, "LOGIT_DECIMALS", 12)  # nothing to hide behind
    exact = predict_split.predict_split(model, variables, split, 16, mesh_of(1))
    found = predict_split.predict_split(model, variables, split, batch_size, mesh_of(devices))
    np.testing.assert_array_equal(found["logit"], exact["logit"])
    assert len(set(found["logit"])) == 37


def test_a_model_whose_logits_are_not_finite_is_one_sentence(model, variables, split):
    broken = jax.tree.map(lambda leaf: leaf * np.float32(1e30), variables)
    with pytest.raises(UserError, match=r"37 of the 37 images of the test split .* not finite"):
        predict_split.predict_split(model, broken, split, 16, mesh_of(1))


def test_sharded_parameters_give_the_same_logits(model, variables, split, reference):
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4, "spatial": 1})
    spread = jax.device_put(variables, sharding.state_sharding(variables, mesh, min_size=64))
    assert not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(spread))
    found = predict_split.predict_split(model, spread, split, 8, mesh)
    np.testing.assert_array_equal(found["logit"], reference["logit"])


def test_large_images_go_one_by_one():
    sizes = (28, 256, 512, 1024, 2048)
    assert [predict_split.chunk_size(size) for size in sizes] == [16, 16, 4, 1, 1]
