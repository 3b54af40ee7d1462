"""Convolutions for a TPU, whose programs are bound by passes over large maps, not by arithmetic."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from cbam_flax.models.ops.convolution.reference import DIMENSIONS, same
from cbam_flax.models.ops.tpu import IMAGES_LAST


@jax.custom_vjp
def _whole_gradient(x: jax.Array) -> jax.Array:
    """x; its gradient is materialised once instead of recomputed by each consumer."""
    return x


_whole_gradient.defvjp(lambda x: (x, None), lambda _, dx: (lax.optimization_barrier(dx),))


def conv(x: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
    """A convolution whose two gradients read one copy of the cotangent."""
    return _whole_gradient(lax.conv_general_dilated(x, kernel, *args, **options))


def band_conv(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, bands: int, **_: Any
) -> jax.Array:
    """A 3x3 convolution of bands of rows `(B bands, H, W, C)`, images in the lanes.

    Raises:
        ValueError: of another size, with strides or without padding "SAME".
    """
    if kernel.shape[:2] != (3, 3) or padding != "SAME" or set(strides) != {1}:
        raise ValueError(
            f"a convolution of size {kernel.shape[:2]}, strides {strides}, padding {padding!r}; "
            "between bands it must be 3x3, 1, 'SAME'"
        )
    x = with_layout_constraint(x, Layout(IMAGES_LAST))
    y = same(x, kernel) if bands == 1 else _band_conv(x, kernel, bands)
    return with_layout_constraint(y, Layout(IMAGES_LAST))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _band_conv(x: jax.Array, kernel: jax.Array, bands: int) -> jax.Array:
    """Convolves each band, then adds the contributions of the neighbouring rows at its edges."""
    y = same(x, kernel)
    above, below = _neighbours(x, bands)
    row = lax.broadcasted_iota(jnp.int32, y.shape, 1)
    first, last = _one_row(above, kernel[:1]), _one_row(below, kernel[2:])
    return y + jnp.where(row == 0, first, 0) + jnp.where(row == y.shape[1] - 1, last, 0)


def _band_conv_forward(x: jax.Array, kernel: jax.Array, bands: int) -> Any:
    return _band_conv(x, kernel, bands), (x, kernel)


def _band_conv_backward(bands: int, saved: Any, dy: jax.Array) -> Any:
    x, kernel = saved
    dx = _band_conv(dy, kernel[::-1, ::-1].swapaxes(2, 3), bands)
    above, below = _neighbours(x, bands)
    first, last = _edges(dy)

    def of_kernel(function: Any, x: jax.Array, kernel: jax.Array, dy: jax.Array) -> jax.Array:
        (dkernel,) = jax.vjp(partial(function, x), kernel)[1](dy)
        return dkernel

    dkernel = of_kernel(same, x, kernel, dy)
    edges = [
        of_kernel(_one_row, above, kernel[:1], first),
        jnp.zeros_like(kernel[1:2]),
        of_kernel(_one_row, below, kernel[2:], last),
    ]
    return dx, dkernel + jnp.concatenate(edges)


_band_conv.defvjp(_band_conv_forward, _band_conv_backward)


def _one_row(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`(B, 1, W, C)` with one row of a kernel."""
    padding = ((0, 0), (1, 1))
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=DIMENSIONS)


def _edges(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and last row, each `(B, 1, W, C)`.

    By a convolution, which XLA fuses with the producer of x; slices would materialise x.
    """
    identity = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), (2, 1, *x.shape[-1:] * 2))
    rows = lax.conv_general_dilated(
        x, identity, (x.shape[1], 1), ((1, 1), (0, 0)), dimension_numbers=DIMENSIONS
    )
    return rows[:, :1], rows[:, 1:]


def _neighbours(x: jax.Array, bands: int) -> tuple[jax.Array, jax.Array]:
    """The rows above and below each band, zero outside the image."""
    edges = _edges(x)
    top, bottom = (rows.reshape(-1, bands, *rows.shape[1:]) for rows in edges)
    outside = jnp.zeros_like(top[:, :1])
    above = jnp.concatenate([outside, bottom[:, :-1]], axis=1)
    below = jnp.concatenate([top[:, 1:], outside], axis=1)
    return above.reshape(edges[0].shape), below.reshape(edges[0].shape)
