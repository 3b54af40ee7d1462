"""Pooling as four strided slices."""

from functools import reduce

import jax
import jax.numpy as jnp


def corners(x: jax.Array) -> list[jax.Array]:
    """The four pixels of every 2x2 window, each `(B, H // 2, W // 2, C)`; an odd edge is dropped.

    Strided slices, because XLA turns their gradient into plain adds; that of a reduce-window
    maximum is a select-and-scatter, several times slower on CPU and on TPU.
    """
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


def maximum_via_compare(a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.maximum`, whose gradient goes to the larger of the two, the first on a tie.

    The gradient of `jnp.maximum` compares each with the RESULT. A compiler that recomputes them for
    that, rounded differently, finds neither equal and drops the gradient (docs/architecture.md, "A
    maximum's gradient").
    """
    return jnp.where(a >= b, a, b)


def pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maximum and mean of every 2x2 window, `(B, H, W, C)` to twice `(B, H // 2, W // 2, C)`."""
    pixels = corners(x)
    return reduce(maximum_via_compare, pixels), reduce(jnp.add, pixels) / 4
