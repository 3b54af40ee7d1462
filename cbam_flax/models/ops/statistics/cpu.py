"""Statistics for XLA:CPU, which has vector code for a maximum, but not for its index."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def mean_and_max(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """`reference.mean_and_max`, with the index of the maximum found in two steps."""
    return jnp.mean(x, axis), _max_via_argmax(x, axis % x.ndim)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_via_argmax(x: jax.Array, axis: int) -> jax.Array:
    return jnp.max(x, axis)


@_max_via_argmax.defjvp
def _max_via_argmax_jvp(axis: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    index = _last_axis_argmax(x) if axis == x.ndim - 1 else _position(x, axis, jnp.max, lax.argmax)
    first = lax.broadcasted_iota(jnp.int32, x.shape, axis) == jnp.expand_dims(index, axis)
    return jnp.max(x, axis), jnp.sum(jnp.where(first, dx, 0), axis)


@jax.custom_jvp
def position_statistics(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Mean, mean of squares, maximum and minimum over all positions: `(B, H, W, C)` to `(B, C)`."""
    pixels = _pixels(x)
    return (
        jnp.mean(pixels, 1),
        jnp.mean(jnp.square(pixels), 1),
        jnp.max(pixels, 1),
        jnp.min(pixels, 1),
    )


def _pixels(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.promote_types(x.dtype, jnp.float32))


@position_statistics.defjvp
def _position_statistics_jvp(primals: Any, tangents: Any) -> Any:
    pixels, changes = _pixels(*primals), _pixels(*tangents)

    def at(index: jax.Array) -> jax.Array:
        here = lax.broadcasted_iota(jnp.int32, pixels.shape, 1) == index[:, None]
        return jnp.sum(jnp.where(here, changes, 0), 1)

    return position_statistics(*primals), (
        jnp.mean(changes, 1),
        jnp.mean(2 * pixels * changes, 1),
        at(_position(pixels, 1, jnp.max, lax.argmax)),
        at(_position(pixels, 1, jnp.min, lax.argmin)),
    )


def _position(x: jax.Array, axis: int, extreme: Any, position: Any) -> jax.Array:
    """Where the extreme is on a long axis: of the pieces' extremes, then in that piece alone.

    XLA:CPU has vector code for a maximum, but not for its index.
    """
    size = x.shape[axis]
    piece = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0)
    pieces = x.reshape(*x.shape[:axis], size // piece, piece, *x.shape[axis + 1 :])
    chosen = jnp.expand_dims(position(extreme(pieces, axis + 1), axis, jnp.int32), axis)
    inside = jnp.take_along_axis(pieces, jnp.expand_dims(chosen, axis), axis)
    return jnp.squeeze(chosen, axis) * piece + position(jnp.squeeze(inside, axis), axis, jnp.int32)


def _last_axis_argmax(x: jax.Array) -> jax.Array:
    """`jnp.argmax` over the channels: first between slices of at least eight, lane by lane."""
    channels = x.shape[-1]
    parts = math.gcd(channels, 16)
    while parts > 1 and channels // parts < 8:
        parts //= 2
    lanes = channels // parts
    best, part = x[..., :lanes], jnp.zeros((*x.shape[:-1], lanes), jnp.int32)
    for number in range(1, parts):
        rival = x[..., number * lanes : (number + 1) * lanes]
        part = jnp.where(rival > best, number, part)
        best = jnp.where(rival > best, rival, best)
    index = part * lanes + lax.broadcasted_iota(jnp.int32, part.shape, part.ndim - 1)
    best, index = lax.optimization_barrier((best, index))

    def better(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        take = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
        return jnp.where(take, a[0], b[0]), jnp.where(take, a[1], b[1])

    start = x.dtype.type(-jnp.inf), jnp.int32(channels)
    return lax.reduce((best, index), start, better, (x.ndim - 1,))[1]
