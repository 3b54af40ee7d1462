import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cbam_flax.models import attention_maps, block_kernel_l2, create_model

X = np.random.default_rng(0).random((2, 37, 29, 1)).astype(np.float32)


def test_config_dict_becomes_the_model():
    config = ConfigDict(
        {"width": 0.5, "stages": [8, 8, 16, 16], "dilations": [1, 2], "dtype": "auto"}
    )
    model = create_model(config)
    assert model.stages == (8, 8, 16, 16)
    assert model.dilations == (1, 2)
    assert model.dtype == np.float32  # the tests run on CPU
    assert hash(model) == hash(create_model(config))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"atention": "se"}, "unknown keys: atention"),
        ({"attention": "cbma"}, "model.attention is 'cbma'; it must be one of .*'cbam'"),
        ({"pooling": "mean"}, "model.pooling is 'mean'"),
        ({"stages": (64, 128)}, "four channel counts"),
        ({"dilations": ()}, "rates of at least 1"),
        ({"width": 0}, "model.width is 0; it must be positive"),
        ({"dropout": 1.0}, "model.dropout is 1.0"),
    ],
    ids=str,
)
def test_wrong_config_is_refused_in_words(config, words):
    with pytest.raises(ValueError, match=words):
        create_model(config)


@pytest.mark.parametrize("preset", ["cbam_resnet", "notebook"])
def test_attention_maps_come_with_the_logits(preset, jit, random_variables):
    model = create_model({"preset": preset, "width": 0.125})
    variables = random_variables(model, X)
    logits, maps = jit(lambda v, x: attention_maps(model, v, x))(variables, X)
    np.testing.assert_allclose(logits, jit(model.apply)(variables, X), atol=1e-6)
    assert {name: gate.shape for name, gate in maps.items()} == {
        "block1": (2, 37, 29),
        "block2": (2, 18, 14),
        "block3": (2, 9, 7),
        "block4": (2, 4, 3),
    }
    for gate in maps.values():
        assert 0 < gate.min() < gate.max() < 1


@pytest.mark.parametrize("attention", ["none", "se", "channel"])
def test_no_spatial_gate_no_maps(attention):
    model = create_model({"width": 0.125, "attention": attention})

    def run(x):
        return attention_maps(model, model.init(jax.random.key(0), x), x)

    logits, maps = jax.eval_shape(run, X)
    assert logits.shape == (2,)
    assert maps == {}


def test_kernel_penalty_is_over_the_eight_block_kernels(random_variables):
    params = random_variables(create_model({"width": 0.125}), X)["params"]
    kernels = [
        params[f"block{n}"][conv]["kernel"] for n in (1, 2, 3, 4) for conv in ("conv1", "conv2")
    ]
    assert block_kernel_l2(params) == pytest.approx(sum((k**2).sum() for k in kernels), rel=1e-5)
    assert block_kernel_l2(params).shape == ()


def test_each_of_several_findings_has_its_logit(random_variables):
    model = create_model({"width": 0.125, "findings": 3})
    variables = random_variables(model, X)
    logits = model.apply(variables, X)
    assert logits.shape == (len(X), 3)
    # One finding is the same network with one column of that layer.
    one = {
        **variables["params"],
        "logit": jax.tree.map(lambda leaf: leaf[..., 1:2], variables["params"]["logit"]),
    }
    alone = create_model({"width": 0.125, "findings": 0}).apply({**variables, "params": one}, X)
    np.testing.assert_allclose(alone, logits[:, 1], rtol=1e-5)
