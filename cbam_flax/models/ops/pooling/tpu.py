"""Pooling for a TPU: windows by reshaping.

Height and width are the outer dimensions of both memory layouts used there, so that reshaping to
windows and back moves no data.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from cbam_flax.models.ops.pooling.reference import maximum_via_compare

Indexed = tuple[jax.Array, jax.Array]  # a value, and where along the axes it was found


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def pool(x: jax.Array, layout: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """`reference.pool`, reading each pixel once; the position of the maximum is kept in a byte."""
    return _pool(x, layout)[:2]


def _pool(x: jax.Array, layout: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Without the barriers XLA would materialise the windows in the wider type, and recompute the
    # results for each consumer.
    windows = lax.optimization_barrier(_placed(_windows(x), layout))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    pixels = [windows[:, :, i, :, j].astype(wide) for i in (0, 1) for j in (0, 1)]

    def first(a: Indexed, b: Indexed) -> Indexed:
        return maximum_via_compare(a[0], b[0]), jnp.where(a[0] >= b[0], a[1], b[1])

    places = [jnp.full(pixels[0].shape, place, wide) for place in range(4)]
    maximum, place = reduce(first, zip(pixels, places, strict=True))
    mean = reduce(jnp.add, pixels) / 4
    found = maximum.astype(x.dtype), mean.astype(x.dtype), place.astype(jnp.int8)
    return lax.optimization_barrier(found)


def _windows(x: jax.Array) -> jax.Array:
    """`(B, H, W, C)` to `(B, H // 2, 2, W // 2, 2, C)`; an odd edge is dropped."""
    batch, height, width, channels = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _placed(windows: jax.Array, layout: tuple[int, ...]) -> jax.Array:
    """Windows in the layout that a reshape from the map gives without moving data."""
    axes = {0: (0,), 1: (1, 2), 2: (3, 4), 3: (5,)}
    order = tuple(axis for outer in layout for axis in axes[outer])
    return with_layout_constraint(windows, Layout(order))


def _pool_forward(x: jax.Array, layout: tuple[int, ...]) -> Any:
    maximum, mean, place = _pool(x, layout)
    return (maximum, mean), (place, jnp.zeros((0, *x.shape[1:])))


def _pool_backward(layout: tuple[int, ...], saved: Any, cotangents: Any) -> tuple[jax.Array]:
    place, (_, height, width, channels) = saved[0], saved[1].shape
    dmaximum, dmean = cotangents
    shape = (place.shape[0], height // 2, 2, width // 2, 2, channels)

    def spread(x: jax.Array) -> jax.Array:
        return lax.broadcast_in_dim(x, shape, (0, 1, 3, 5))

    here = 2 * lax.broadcasted_iota(jnp.int8, shape, 2) + lax.broadcasted_iota(jnp.int8, shape, 4)
    dx = spread(dmean) * jnp.asarray(0.25, dmean.dtype)
    dx += jnp.where(here == spread(place), spread(dmaximum), 0)
    dx = lax.optimization_barrier(_placed(dx, layout))
    dx = dx.reshape(shape[0], height // 2 * 2, width // 2 * 2, channels)
    return (jnp.pad(dx, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))),)


pool.defvjp(_pool_forward, _pool_backward)
