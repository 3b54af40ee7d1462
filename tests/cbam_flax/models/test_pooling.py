import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cbam_flax.models.pooling import MixedPool, avg_pool, max_pool


def windows(x):
    """`(B, H // 2, W // 2, 4, C)`, taken apart one window at a time."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    rows = [
        np.stack(
            [
                x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(len(x), 4, -1)
                for j in range(width)
            ],
            1,
        )
        for i in range(height)
    ]
    return np.stack(rows, axis=1)


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (3, 2)])
def test_maximum_and_mean_over_windows_drop_the_odd_edge(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), windows(x).max(3))
    np.testing.assert_allclose(avg_pool(jnp.asarray(x)), windows(x).mean(3), atol=1e-6)


def test_gradient_goes_to_the_maximum_and_evenly_to_the_mean():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(jax.grad(lambda x: max_pool(x).sum())(x).ravel(), [0, 0, 0, 1])
    np.testing.assert_array_equal(jax.grad(lambda x: avg_pool(x).sum())(x).ravel(), [0.25] * 4)


def test_mixed_pool_is_relu_of_a_1x1_convolution_of_max_then_mean(random_variables):
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 5)).astype(np.float32)
    variables = random_variables(MixedPool(), x)
    mix = variables["params"]["mix"]
    assert mix["kernel"].shape == (1, 1, 10, 5)
    both = np.concatenate([windows(x).max(3), windows(x).mean(3)], axis=-1)
    expected = np.maximum(both @ mix["kernel"][0, 0] + mix["bias"], 0)
    np.testing.assert_allclose(MixedPool().apply(variables, x), expected, atol=1e-5)
