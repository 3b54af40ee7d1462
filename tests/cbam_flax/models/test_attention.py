import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import expit

from cbam_flax.models.attention import CBAM, ChannelAttention, SpatialAttention
from cbam_flax.models.ops.statistics.reference import max_via_argmax

X = np.random.default_rng(0).normal(size=(3, 9, 7, 32)).astype(np.float32)


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def test_channel_gate_sends_mean_and_max_through_one_mlp(random_variables):
    module = ChannelAttention(reduction=8)
    variables = random_variables(module, X)
    mlp = variables["params"]["mlp"]
    logits = sum(
        dense(np.maximum(dense(statistic, mlp["dense1"]), 0), mlp["dense2"])
        for statistic in (X.mean((1, 2)), X.max((1, 2)))
    )
    np.testing.assert_allclose(
        module.apply(variables, X), X * expit(logits)[:, None, None], atol=1e-5
    )
    assert list(variables["params"]) == ["mlp"]
    assert mlp["dense1"]["kernel"].shape == (32, 4)
    assert mlp["dense2"]["kernel"].shape == (4, 32)


def test_squeeze_and_excitation_reads_the_mean_only(random_variables):
    module = ChannelAttention(reduction=8, statistics=("mean",))
    variables = random_variables(module, X)
    mlp = variables["params"]["mlp"]
    logits = dense(np.maximum(dense(X.mean((1, 2)), mlp["dense1"]), 0), mlp["dense2"])
    np.testing.assert_allclose(
        module.apply(variables, X), X * expit(logits)[:, None, None], atol=1e-5
    )


def test_notebook_channel_gate_has_two_mlps_and_a_relu_after_every_layer(random_variables):
    module = ChannelAttention(reduction=8, mlp="separate")
    variables = random_variables(module, X)
    logits = 0
    for name, statistic in (("mean_mlp", X.mean((1, 2))), ("max_mlp", X.max((1, 2)))):
        layers = variables["params"][name]
        assert [layers[f"dense{n}"]["kernel"].shape for n in (1, 2, 3)] == [
            (32, 32),
            (32, 4),
            (4, 32),
        ]
        for n in (1, 2, 3):
            statistic = np.maximum(dense(statistic, layers[f"dense{n}"]), 0)
        logits = logits + statistic
    np.testing.assert_allclose(
        module.apply(variables, X), X * expit(logits)[:, None, None], atol=1e-5
    )


def test_hidden_layer_never_vanishes():
    params = ChannelAttention(reduction=64).init(jax.random.key(0), X)["params"]
    assert params["mlp"]["dense1"]["kernel"].shape == (32, 1)


@pytest.mark.parametrize("statistics", [("max", "mean"), ("mean", "mean")])
def test_spatial_gate_is_a_7x7_convolution_of_two_statistics(statistics, random_variables):
    module = SpatialAttention(statistics=statistics)
    variables = random_variables(module, X)
    conv = variables["params"]["conv"]
    assert conv["kernel"].shape == (7, 7, 2, 1)
    maps = np.stack([{"max": X.max(-1), "mean": X.mean(-1)}[s] for s in statistics], axis=-1)
    padded = np.pad(maps, ((0, 0), (3, 3), (3, 3), (0, 0)))
    logits = np.stack([correlate(p, conv["kernel"][..., 0], mode="valid") for p in padded])
    np.testing.assert_allclose(
        module.apply(variables, X), X * expit(logits + conv["bias"]), atol=1e-5
    )


def test_normalised_spatial_gate_has_no_bias_of_its_own(random_variables):
    def norm(name):
        return nn.BatchNorm(use_running_average=True, name=name)

    module = SpatialAttention(norm=norm)
    variables = random_variables(module, X)
    assert list(variables["params"]["conv"]) == ["kernel"]
    plain = SpatialAttention()
    bias = {"params": {"conv": {**variables["params"]["conv"], "bias": np.zeros(1, np.float32)}}}
    _, sown = plain.apply(bias, X, mutable=["intermediates"])
    (gate,) = sown["intermediates"]["gate"]
    logits = np.log(gate / (1 - gate))
    scale, offset = (variables["params"]["norm"][k] for k in ("scale", "bias"))
    mean, var = (variables["batch_stats"]["norm"][k] for k in ("mean", "var"))
    expected = X * expit((logits - mean) / np.sqrt(var + 1e-5) * scale + offset)
    np.testing.assert_allclose(module.apply(variables, X), expected, atol=1e-4)


def test_cbam_is_channel_then_spatial(random_variables):
    variables = random_variables(CBAM(), X)
    parts = variables["params"]
    channel = ChannelAttention().apply({"params": parts["channel"]}, X)
    expected = SpatialAttention().apply({"params": parts["spatial"]}, channel)
    np.testing.assert_allclose(CBAM().apply(variables, X), expected, atol=1e-6)
    swapped = ChannelAttention().apply(
        {"params": parts["channel"]}, SpatialAttention().apply({"params": parts["spatial"]}, X)
    )
    assert np.abs(swapped - expected).max() > 1e-3


def test_gates_are_sown_on_request_and_cost_nothing_otherwise(random_variables, monkeypatch):
    variables = random_variables(CBAM(), X)
    output, sown = CBAM().apply(variables, X, mutable=["intermediates"])
    gates = sown["intermediates"]
    assert gates["channel"]["gate"][0].shape == (3, 1, 1, 32)
    assert gates["spatial"]["gate"][0].shape == (3, 9, 7, 1)
    np.testing.assert_allclose(
        output, X * gates["channel"]["gate"][0] * gates["spatial"]["gate"][0], atol=1e-5
    )
    assert "intermediates" not in CBAM().init(jax.random.key(0), X)

    def program():
        return jax.jit(lambda v, x: CBAM().apply(v, x)).lower(variables, X).as_text()

    unasked = program()
    monkeypatch.setattr(nn.Module, "sow", lambda *arguments, **options: False)
    assert program() == unasked


def test_gradient_of_the_maximum_goes_to_the_first():
    x = jnp.array([[1.0, 5.0, 2.0], [7.0, 7.0, 0.0], [3.0, 3.0, 3.0]])
    gradient = jax.grad(lambda x: (max_via_argmax(x, 1) * jnp.array([1.0, 2.0, 3.0])).sum())(x)
    np.testing.assert_array_equal(gradient, [[0, 1, 0], [2, 0, 0], [3, 0, 0]])
    np.testing.assert_array_equal(max_via_argmax(x, 1), [5, 7, 3])
    np.testing.assert_array_equal(max_via_argmax(x, 0), [7, 7, 3])
