"""Halving the map: maximum, mean, or a learnt mixture of both."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def _corners(x: jax.Array) -> list[jax.Array]:
    """The four pixels of every 2x2 window, each `(B, H // 2, W // 2, C)`.

    Strided slices, because XLA turns their gradient into plain adds; that of a reduce-window
    maximum is a select-and-scatter, several times slower on CPU and on TPU.
    """
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 maximum, stride 2; an odd last row or column is dropped.

    The larger of two is chosen by comparing the two. The gradient of `jnp.maximum` compares each
    with the RESULT, and a compiler that computes them again for that, rounded differently, finds
    neither equal and drops the gradient (docs/architecture.md, "A maximum's gradient").
    """
    return reduce(lambda a, b: jnp.where(a >= b, a, b), _corners(x))


def mean_pool(x: jax.Array) -> jax.Array:
    """2x2 mean, stride 2; an odd last row or column is dropped."""
    return reduce(jnp.add, _corners(x)) / 4


class MixedPool(nn.Module):
    """Maximum and mean, mixed back to the input's channels: `ReLU(Conv1x1([max, mean]))`.

    `(B, H, W, C)` to `(B, H // 2, W // 2, C)`. The gated form of the idea is from Lee et al. 2016,
    "Generalizing Pooling Functions in Convolutional Neural Networks".
    """

    conv: Callable[..., Any] = nn.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        both = jnp.concatenate([max_pool(x), mean_pool(x)], axis=-1)
        return nn.relu(self.conv(x.shape[-1], (1, 1), name="mix")(both))
