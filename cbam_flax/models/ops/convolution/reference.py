"""Convolutions as XLA's own operation."""

import jax
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def same(x: jax.Array, kernel: jax.Array, rates: tuple[int, ...] = (1, 1)) -> jax.Array:
    """Stride 1, padding "SAME": `(B, H, W, C)` to `(B, H, W, F)`."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", rhs_dilation=rates, dimension_numbers=DIMENSIONS
    )
