"""Halving the map: maximum, mean, or a learnt mixture of both."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cbam_flax.models.forms import PLAIN, Forms


class Mix(nn.Module):
    """A 1x1 convolution of several maps as if they were concatenated: the sum of their products.

    The parameters are those of `nn.Conv(features, (1, 1))` on the concatenation, which is never
    written to memory.
    """

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    product: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        """Maps `(B, H, W, C_i)` to `(B, H, W, features)`."""
        channels = [x.shape[-1] for x in maps]
        shape = (1, 1, sum(channels), self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        *maps, kernel, bias = nn.dtypes.promote_dtype(*maps, kernel, bias, dtype=self.dtype)
        products, start = [], 0
        for x, width in zip(maps, channels, strict=True):
            products.append(self.product(x, kernel[0, 0, start : start + width]))
            start += width
        return sum(products) + bias


class MixedPool(nn.Module):
    """Maximum and mean, mixed back to the input's channels: `ReLU(Conv1x1([max, mean]))`.

    `(B, H, W, C)` to `(B, H // 2, W // 2, C)`. The gated form of the idea is from Lee et al. 2016,
    "Generalizing Pooling Functions in Convolutional Neural Networks".
    """

    mix: Callable[..., Any] = Mix
    forms: Forms = PLAIN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(self.mix(x.shape[-1], name="mix")(self.forms.pool(x)))
