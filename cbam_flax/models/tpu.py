"""The forms of `cbam_flax.models.forms` that the TPU compiler wants.

A TPU program of this model is bound by passes over its large maps, not by arithmetic
(docs/performance.md). XLA gives each maximum over such a map a pass of its own; here everything
that is wanted of a map is found in one, by one reduction of several values.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cbam_flax.models.forms import Forms, corners, larger

LANES = 128
Indexed = tuple[jax.Array, jax.Array]  # a value, and where along the axes it was found


def _first(better: Any, a: Indexed, b: Indexed) -> Indexed:
    """Of two the better; of equal ones the one that stands first."""
    take = better(a[0], b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
    return jnp.where(take, a[0], b[0]), jnp.where(take, a[1], b[1])


def _index(x: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Of every element its position among those that are reduced together, int32."""
    index = jnp.int32(0)
    for axis in axes:
        index = index * x.shape[axis] + lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return index


def _reduce(x: jax.Array, axes: tuple[int, ...], moments: bool) -> tuple[jax.Array, ...]:
    """Sum, maximum and its index; with `moments` also sum of squares, minimum and its index."""
    x, index = x.astype(jnp.promote_types(x.dtype, jnp.float32)), _index(x, axes)
    zero, last = x.dtype.type(0), jnp.int32(jnp.iinfo(jnp.int32).max)
    low, high = x.dtype.type(-jnp.inf), x.dtype.type(jnp.inf)
    values, starts = [x, x, index], [zero, low, last]
    if moments:
        values, starts = [*values, x * x, x, index], [*starts, zero, high, last]

    def combine(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        found = [a[0] + b[0], *_first(lax.gt, (a[1], a[2]), (b[1], b[2]))]
        if moments:
            found += [a[3] + b[3], *_first(lax.lt, (a[4], a[5]), (b[4], b[5]))]
        return tuple(found)

    return tuple(lax.reduce(values, starts, combine, axes))


def _at(x: jax.Array, index: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The element of x at an index of `_reduce`, as a sum, whose transpose is a select."""
    chosen = _index(x, axes) == jnp.expand_dims(index, axes)
    return jnp.sum(jnp.where(chosen, x, 0), axes)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def mean_and_max(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """`forms.mean_and_max` in one pass."""
    return _mean_and_max(x, axis)[:2]


def _mean_and_max(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    total, maximum, index = _reduce(x, (axis % x.ndim,), moments=False)
    return (total / x.shape[axis]).astype(x.dtype), maximum.astype(x.dtype), index


@mean_and_max.defjvp
def _mean_and_max_jvp(axis: int, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    mean, maximum, index = _mean_and_max(x, axis)
    return (mean, maximum), (jnp.mean(dx, axis), _at(dx, index, (axis % x.ndim,)))


@jax.custom_jvp
def moments(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Mean, mean of squares, maximum and minimum over all positions, in one pass.

    `(B, H, W, C)` to four times `(B, C)`, float32 or better.
    """
    return _moments(x)[0]


def _moments(x: jax.Array) -> Any:
    count = x.shape[1] * x.shape[2]
    total, high, where_high, squares, low, where_low = _reduce(x, (1, 2), moments=True)
    return (total / count, squares / count, high, low), (where_high, where_low)


@moments.defjvp
def _moments_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    found, (where_high, where_low) = _moments(x)
    x, dx = x.astype(found[0].dtype), dx.astype(found[0].dtype)
    return found, (
        jnp.mean(dx, (1, 2)),
        jnp.mean(2 * x * dx, (1, 2)),
        _at(dx, where_high, (1, 2)),
        _at(dx, where_low, (1, 2)),
    )


@jax.custom_vjp
def _whole_gradient(x: jax.Array) -> jax.Array:
    """x; its gradient is written to memory once and not computed again by each of its readers."""
    return x


_whole_gradient.defvjp(lambda x: (x, None), lambda _, dx: (lax.optimization_barrier(dx),))


def conv(
    x: jax.Array, kernel: jax.Array, *args: Any, batch_in_lanes: bool = False, **options: Any
) -> jax.Array:
    """A convolution whose two gradients read one copy of the cotangent, where that is cheaper.

    It is not where the compiler lays the batch into the lanes, since the channels leave them empty.
    """
    y = lax.conv_general_dilated(x, kernel, *args, **options)
    return y if batch_in_lanes and kernel.shape[-1] % LANES else _whole_gradient(y)


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
    y = lax.conv_general_dilated(
        flat, band, (1, 1), pad, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(batch, height, width, features)


def pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`forms.pool` as the compiler likes it: windows where channels fill the lanes, else slices.

    The slices are float32, since those of packed bfloat16 take longer.
    """
    if x.shape[-1] % LANES == 0:
        window = {"window_shape": (2, 2), "strides": (2, 2)}
        return nn.max_pool(x, **window), nn.avg_pool(x, **window)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    pixels = [pixel.astype(wide) for pixel in corners(x)]
    mean = reduce(jnp.add, pixels) / 4
    return reduce(larger, pixels).astype(x.dtype), mean.astype(x.dtype)


_FORMS = Forms(
    conv=conv, gate_conv=gate_conv, mean_and_max=mean_and_max, pool=pool, moments=moments
)
_BATCH_IN_LANES = _FORMS._replace(conv=partial(conv, batch_in_lanes=True))


def forms(images_per_device: int) -> Forms:
    """The forms for a step of that many images on each device."""
    return _FORMS if images_per_device % LANES else _BATCH_IN_LANES
