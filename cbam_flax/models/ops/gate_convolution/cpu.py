"""The gate's convolution for XLA:CPU: each tap is a shifted map times a weight."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cbam_flax.models.ops.convolution.cpu import check
from cbam_flax.models.ops.convolution.reference import same


def gate_conv(
    maps: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any
) -> jax.Array:
    """Stride 1, padding "SAME", of odd size, from a few maps to one."""
    check(kernel, strides, padding)
    return _gate_conv(maps, kernel)


@jax.custom_vjp
def _gate_conv(maps: jax.Array, kernel: jax.Array) -> jax.Array:
    planes = [maps[..., channel] for channel in range(maps.shape[-1])]
    return _correlate(planes, kernel[..., 0])[..., None]


def _gate_forward(maps: jax.Array, kernel: jax.Array) -> Any:
    return _gate_conv(maps, kernel), (maps, kernel)


def _gate_backward(saved: Any, dy: jax.Array) -> Any:
    maps, kernel = saved
    turned = kernel[::-1, ::-1, :, 0]
    dmaps = [_correlate([dy[..., 0]], turned[..., i : i + 1]) for i in range(maps.shape[-1])]
    (dkernel,) = jax.vjp(lambda kernel: same(maps, kernel), kernel)[1](dy)
    return jnp.stack(dmaps, axis=-1), dkernel


_gate_conv.defvjp(_gate_forward, _gate_backward)


def _correlate(planes: list[jax.Array], kernel: jax.Array) -> jax.Array:
    """Correlates each plane `(B, H, W)` with its `kernel[..., number]`, and adds them up.

    First the sums over each column of the kernel, then over the columns. The barriers keep the
    compiler from fusing everything into one loop, which would read each element 49 times.
    """
    height, width = planes[0].shape[1:]
    down, across = kernel.shape[:2]
    edges = ((0, 0), (down // 2, down // 2), (across // 2, across // 2))
    padded = lax.optimization_barrier([jnp.pad(plane, edges) for plane in planes])
    columns = sum(
        plane[:, i : i + height] * kernel[i, :, number, None, None, None]
        for i in range(down)
        for number, plane in enumerate(padded)
    )
    columns = lax.optimization_barrier(columns)
    return sum(columns[j, :, :, j : j + width] for j in range(across))
