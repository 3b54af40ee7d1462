"""The gate's convolution for a TPU: a matrix product that fills the matrix units."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cbam_flax.models.ops.convolution.reference import DIMENSIONS


def gate_conv(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """A k x k convolution of few maps to one, as a convolution over the height alone.

    A row of W pixels of C maps becomes one vector of W C numbers; over it the kernel is a band
    matrix `(k, W C, W)`, mostly zeros, whose product fills the matrix units, where C = 2 channels
    would leave them empty.
    """
    batch, height, width, channels = x.shape
    rows, columns, _, features = kernel.shape
    half = columns // 2
    offset = jnp.arange(width)[:, None] - jnp.arange(width)[None, :] + half  # from, to
    place = jax.nn.one_hot(offset, columns, dtype=kernel.dtype)  # rows of zeros outside the kernel
    band = jnp.einsum("wvj,ijcf->iwcvf", place, kernel).reshape(rows, 1, width * channels, -1)
    flat = x.reshape(batch, height, 1, width * channels)
    pad = ((rows // 2, rows // 2), (0, 0))
    y = lax.conv_general_dilated(flat, band, (1, 1), pad, dimension_numbers=DIMENSIONS)
    return y.reshape(batch, height, width, features)
