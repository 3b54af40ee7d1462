"""Linen layers for feature maps, with the same parameters and names as linen's own.

They take plain arrays or a `FeatureMap` of `cbam_flax.models.ops`, which carries the implementation
of each op.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cbam_flax.models import ops
from cbam_flax.models.ops.statistics.reference import mean_and_mean_square

Layer = Callable[..., Any]


class Conv(nn.Module):
    """`nn.Conv` of stride 1 and padding "SAME", at a rate: `(B, H, W, C)` to `(B, H, W, F)`."""

    features: int
    kernel_size: tuple[int, int]
    rate: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: ops.Map) -> ops.Map:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        dtype = jnp.result_type(x.dtype, kernel) if self.dtype is None else self.dtype
        y = ops.convolve(x.astype(dtype), kernel.astype(dtype), self.rate)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        return y + bias.astype(dtype)


class Mix(nn.Module):
    """A 1x1 convolution of several maps as if concatenated, computed as a sum of products.

    The parameters are those of `nn.Conv(features, (1, 1))` on the concatenation, which is never
    materialised.
    """

    features: int
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[ops.Map]) -> ops.Map:
        """Maps `(B, H, W, C_i)` to `(B, H, W, features)`."""
        channels = [x.shape[-1] for x in maps]
        shape = (1, 1, sum(channels), self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        types = (x.dtype for x in maps)
        dtype = jnp.result_type(*types, kernel) if self.dtype is None else self.dtype
        kernel, bias = kernel.astype(dtype), bias.astype(dtype)
        products, start = [], 0
        for x, width in zip(maps, channels, strict=True):
            products.append(ops.matmul(x.astype(dtype), kernel[0, 0, start : start + width]))
            start += width
        return sum(products[1:], products[0]) + bias


class BatchNorm(nn.BatchNorm):
    """`nn.BatchNorm`; on platforms that defer it, returned as a pending scale and offset.

    `gate_follows` says that a channel gate comes next, whose statistics can then be found in the
    same pass over the map. Affects speed, never the result.
    """

    gate_follows: bool = False

    @nn.compact
    def __call__(self, x: ops.Map) -> ops.Map:  # type: ignore[override]
        if not isinstance(x, ops.FeatureMap):
            return super().__call__(x)
        if x.ops.position_statistics is None:
            return super().__call__(x.array)
        statistics = x.ops.position_statistics(x.pixels) if self.gate_follows else None
        if statistics is None:
            mean, mean_square = mean_and_mean_square(x.pixels)
        else:
            mean, mean_square = statistics[0].mean(0), statistics[1].mean(0)
        shape = mean.shape
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            var = jnp.maximum(mean_square - jnp.square(mean), 0)
            if not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * new
        scale = scale * jax.lax.rsqrt(var + self.epsilon)
        return ops.FeatureMap(x.pixels, x.ops, scale, bias - mean * scale, statistics)


class MLP(nn.Module):
    """Dense layers of these widths on the last axis; ReLU between, and after if `relu_last`."""

    widths: Sequence[int]
    relu_last: bool = False
    dense: Layer = nn.Dense

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number, width in enumerate(self.widths, start=1):
            x = self.dense(width, name=f"dense{number}")(x)
            if number < len(self.widths) or self.relu_last:
                x = nn.relu(x)
        return x
