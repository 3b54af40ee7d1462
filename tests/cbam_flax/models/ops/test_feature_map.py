"""A module computes the same from a `FeatureMap` as from a plain array, however it is held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbam_flax.models import ops
from cbam_flax.models.aspp import AtrousPyramid
from cbam_flax.models.attention import CBAM, ChannelAttention, SpatialAttention
from cbam_flax.models.layers import BatchNorm
from cbam_flax.models.ops import table
from cbam_flax.models.ops.feature_map import FeatureMap, split_rows
from cbam_flax.models.pooling import MixedPool

X = np.random.default_rng(0).normal(size=(3, 8, 6, 32)).astype(np.float32)
OPS = {"cpu": table.CPU, "tpu": table.CHANNELS_IN_LANES, "tpu, 2 bands": table.images_in_lanes(2)}


@pytest.fixture(params=OPS)
def held(request):
    """`X` as the platform holds it."""
    return hold(OPS[request.param])


def hold(chosen):
    return FeatureMap(split_rows(jnp.asarray(X), 1, chosen.bands), chosen)


def norm(train, **options):
    return BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, **options)


@pytest.mark.parametrize(
    "module",
    [
        ChannelAttention(reduction=4),
        ChannelAttention(statistics=("mean",), mlp="separate"),
        SpatialAttention(),
        SpatialAttention(norm=lambda name: norm(False, name=name)),
        CBAM(),
        MixedPool(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules(module, held, random_variables):
    variables = random_variables(module, X)
    result = module.apply(variables, held)
    expected = module.apply(variables, X)
    assert isinstance(result, FeatureMap)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result.array, expected, atol=1e-5)


@pytest.mark.parametrize("chosen", [table.CPU, table.CHANNELS_IN_LANES], ids=["cpu", "tpu"])
def test_pyramid(chosen, random_variables):
    """Of whole images alone: its rates reach beyond a band's neighbouring row."""
    module = AtrousPyramid(dilations=(1, 2), image_level=True)
    variables = random_variables(module, X)
    result = module.apply(variables, hold(chosen))
    np.testing.assert_allclose(result.array, module.apply(variables, X), atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("gate_follows", [True, False])
def test_a_pending_normalisation_and_gate(train, gate_follows, held, random_variables):
    """Nothing is computed of the map until its values are asked for; then it is all the same."""
    layer, gate = norm(train, gate_follows=gate_follows), ChannelAttention(reduction=4)
    normal_variables, gate_variables = random_variables(layer, X), random_variables(gate, X)
    if gate_follows:  # of a negative scale the lowest value becomes the highest
        normal_variables["params"]["scale"] *= np.where(np.arange(32) % 2, -1, 1)

    def run(x):
        y, updated = layer.apply(normal_variables, x, mutable=["batch_stats"])
        return gate.apply(gate_variables, y), updated

    (pending, ours), (expected, plain) = run(held), run(X)
    assert pending.raw is held.raw
    np.testing.assert_allclose(pending.array, expected, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, plain)


def test_at_a_border_between_ops_the_values_stay(held):
    doubled = ops.computed_by(table.CHANNELS_IN_LANES, lambda x: x + x)(held)
    assert doubled.ops is table.CHANNELS_IN_LANES
    np.testing.assert_array_equal(ops.array(doubled), 2 * X)
    plain = ops.computed_by(ops.REFERENCE, lambda x: x)(held)
    assert not isinstance(plain, FeatureMap)
    np.testing.assert_array_equal(plain, X)


def test_unknown_platforms_fall_back_to_the_references():
    assert ops.ops_for("any") == (ops.REFERENCE,) * 4
