"""Statistics for a TPU or GPU: all statistics of a map in one pass over it.

XLA fuses these reductions with the convolution that writes the map.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cbam_flax.models.ops.statistics.reference import max_via_argmax

Four = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
Indexed = tuple[jax.Array, jax.Array]  # a value, and where along the axes it was found


def _first(better: Any, a: Indexed, b: Indexed) -> Indexed:
    """The better of two; on a tie, the one with the lower index."""
    take = better(a[0], b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
    return jnp.where(take, a[0], b[0]), jnp.where(take, a[1], b[1])


def _index(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Each element's index among those reduced together, int32."""
    index = jnp.int32(0)
    for axis in axes:
        index = index * x.shape[axis] + lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return index


def _reduce(x: jax.Array, axes: tuple[int, ...], extended: bool) -> tuple[jax.Array, ...]:
    """Sum, maximum and its index; if `extended` also sum of squares, minimum and its index.

    One reduction for all: separate maxima would each take XLA a pass.
    """
    x, index = x.astype(jnp.promote_types(x.dtype, jnp.float32)), _index(x, axes)
    zero, last = x.dtype.type(0), jnp.int32(jnp.iinfo(jnp.int32).max)
    low, high = x.dtype.type(-jnp.inf), x.dtype.type(jnp.inf)
    values, starts = [x, x, index], [zero, low, last]
    if extended:
        values, starts = [*values, x * x, x, index], [*starts, zero, high, last]

    def combine(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        found = [a[0] + b[0], *_first(lax.gt, (a[1], a[2]), (b[1], b[2]))]
        if extended:
            found += [a[3] + b[3], *_first(lax.lt, (a[4], a[5]), (b[4], b[5]))]
        return tuple(found)

    return tuple(lax.reduce(values, starts, combine, axes))


def _at(x: jax.Array, index: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The element of x at an index of `_reduce`, as a sum, whose transpose is a select."""
    chosen = _index(x, axes) == jnp.expand_dims(index, axes)
    return jnp.sum(jnp.where(chosen, x, 0), axes)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def mean_and_max(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """`reference.mean_and_max` in one pass."""
    return _mean_and_max(x, axis)[:2]


def _mean_and_max(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    total, maximum, index = _reduce(x, (axis % x.ndim,), extended=False)
    return (total / x.shape[axis]).astype(x.dtype), maximum.astype(x.dtype), index


@mean_and_max.defjvp
def _mean_and_max_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    mean, maximum, index = _mean_and_max(x, axis)
    return (mean, maximum), (jnp.mean(dx, axis), _at(dx, index, (axis % x.ndim,)))


def position_statistics(x: jax.Array, bands: int = 1) -> Four:
    """Mean, mean of squares, maximum and minimum over all positions of an image.

    `(B bands, H, W, C)` to four times `(B, C)`, float32 or better.
    """
    found = [x.reshape(-1, bands, x.shape[-1]) for x in _position_statistics(x)]
    mean, squares, high, low = found
    return mean.mean(1), squares.mean(1), max_via_argmax(high, 1), -max_via_argmax(-low, 1)


@jax.custom_jvp
def _position_statistics(x: jax.Array) -> Four:
    return _statistics_and_indices(x)[0]


@_position_statistics.defjvp
def _position_statistics_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    found, (where_high, where_low) = _statistics_and_indices(x)
    x, dx = x.astype(found[0].dtype), dx.astype(found[0].dtype)
    return found, (
        jnp.mean(dx, (1, 2)),
        jnp.mean(2 * x * dx, (1, 2)),
        _at(dx, where_high, (1, 2)),
        _at(dx, where_low, (1, 2)),
    )


def _statistics_and_indices(x: jax.Array) -> Any:
    count = x.shape[1] * x.shape[2]
    if x.dtype == jnp.bfloat16 and count <= _LAST + 1:
        # Rounded again, or XLA might use the values from before the rounding to bfloat16.
        exact = lax.reduce_precision(x.astype(jnp.float32), exponent_bits=8, mantissa_bits=7)
        high, where_high = _lowest(-exact)
        low, where_low = _lowest(exact)
        means = jnp.mean(exact, (1, 2)), jnp.mean(exact * exact, (1, 2))
        return (*means, -high, low), (where_high, where_low)
    total, high, where_high, squares, low, where_low = _reduce(x, (1, 2), extended=True)
    return (total / count, squares / count, high, low), (where_high, where_low)


_LAST = 2**16 - 1  # the largest position that the lower half of a float32 can hold
_EXPONENT, _SMALLEST = 0x7F800000, 0x00800000  # of a float32; its smallest number that is normal


def _lowest(x: jax.Array) -> Indexed:
    """Minimum over the positions of float32 that are bfloat16, and where it stands first.

    The lower 16 bits of such a number are free and take its position, so that one minimum finds
    both. That of plain numbers is fused with the convolution that writes x; no other is.
    """
    bits = lax.bitcast_convert_type(x, jnp.int32)
    # A TPU flushes subnormals to zero: use the smallest normal number for zero.
    bits = jnp.where(bits & _EXPONENT == 0, bits | _SMALLEST, bits)
    position = _index(x, (1, 2))
    # Further bits make a negative number smaller.
    order = jnp.where(bits < 0, _LAST - position, position)
    lowest = jnp.min(lax.bitcast_convert_type(bits | order, jnp.float32), (1, 2))
    bits = lax.bitcast_convert_type(lowest, jnp.int32)
    order = bits & _LAST
    value = lax.bitcast_convert_type(bits - order, jnp.float32)
    return value, jnp.where(bits < 0, _LAST - order, order)
