"""Winograd's convolutions against lax's, in float64: outputs and the gradient of the kernel."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cbam_flax.models.ops.convolution import winograd


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def plain(x, kernel, rate):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", rhs_dilation=(rate, rate), dimension_numbers=numbers
    )


def plain_kernel_gradient(x, dy, rate):
    kernel = jnp.zeros((3, 3, x.shape[-1], dy.shape[-1]), x.dtype)
    return jax.vjp(lambda kernel: plain(x, kernel, rate), kernel)[1](dy)[0]


@pytest.mark.parametrize(
    ("shape", "rate", "block", "count"),
    [
        ((2, 8, 8, 3), 1, 448, 1),
        ((2, 8, 8, 3), 1, 4, 2),  # a row of tiles at a time
        ((2, 24, 8, 3), 1, 16, 2),  # three of six rows of tiles
        ((1, 12, 8, 3), 1, 1, 3),  # never less than a row
        ((2, 9, 7, 3), 1, 4, 3),  # tiles that are not whole
        ((1, 13, 22, 3), 2, 448, 2),  # every other row at a time
        ((1, 13, 22, 3), 2, 1, 4),
        ((2, 6, 11, 3), 4, 448, 4),
        ((1, 5, 3, 2), 8, 448, 8),  # the kernel is taller than the map
        ((1, 1, 1, 1), 1, 448, 1),
    ],
)
def test_convolution_and_kernel_gradient(shape, rate, block, count, jit, monkeypatch):
    monkeypatch.setattr(winograd, "BLOCK", block)
    x, kernel, dy = normal(*shape), normal(3, 3, shape[-1], 5), normal(*shape[:3], 5, seed=1)
    assert winograd.Blocks.of(shape, rate).number == count
    for ours, theirs, second in (
        (winograd.conv, plain, kernel),
        (winograd.kernel_gradient, plain_kernel_gradient, dy),
    ):
        found, expected = (
            jit(function, static_argnums=2)(x, second, rate) for function in (ours, theirs)
        )
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_lower_precision(dtype, jit):
    """Of float32 the error is a few roundings, of bfloat16 that of the result's last place."""
    x, kernel, dy = normal(2, 24, 24, 64), normal(3, 3, 64, 64, seed=1), normal(2, 24, 24, 64)
    x, kernel, dy = (jnp.asarray(array, dtype) for array in (np.abs(x), kernel, dy))
    for ours, theirs, second, result in (
        (winograd.conv, plain, kernel, dtype),
        (winograd.kernel_gradient, plain_kernel_gradient, dy, "float32"),
    ):
        found = jit(ours, static_argnums=2)(x, second, 1)
        exact = jit(theirs, static_argnums=2)(x.astype(float), second.astype(float), 1)
        assert found.dtype == result
        error = np.asarray(found, np.float64) - exact
        assert np.sqrt(np.mean(error**2)) < {"bfloat16": 2e-3, "float32": 1e-6}[result] * np.std(
            exact
        )


@pytest.mark.parametrize(
    ("shape", "kernel", "rate", "pays"),
    [
        ((8, 224, 224, 64), (3, 3, 64, 64), 1, True),
        ((8, 56, 56, 128), (3, 3, 128, 128), 8, True),
        ((8, 14, 14, 256), (3, 3, 256, 256), 8, False),  # a map of 7x7 tiles would be mostly empty
        ((8, 224, 224, 1), (3, 3, 1, 64), 1, False),
        ((8, 56, 56, 16), (3, 3, 16, 16), 1, False),
        ((8, 56, 56, 128), (5, 5, 128, 128), 1, False),
    ],
)
def test_where_it_pays(shape, kernel, rate, pays):
    assert winograd.pays(shape, kernel, (rate, rate)) == pays


def test_rates_that_differ_are_not_taken():
    assert not winograd.pays((8, 56, 56, 128), (3, 3, 128, 128), (1, 2))


def test_a_batch_split_over_devices_is_not_gathered(jit):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, replicated = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    x, kernel, dy = normal(8, 9, 9, 3), normal(3, 3, 3, 5), normal(8, 9, 9, 5)
    for function, second, sharding in (
        (winograd.conv, kernel, replicated),
        (winograd.kernel_gradient, dy, split),
    ):
        run = partial(function, rate=2)
        eight = jit(run, in_shardings=(split, sharding)).lower(x, second).compile()
        assert "all-gather" not in eight.as_text()
        found = eight(jax.device_put(x, split), jax.device_put(second, sharding))
        np.testing.assert_allclose(found, jit(run)(x, second), rtol=1e-10, atol=1e-10)
