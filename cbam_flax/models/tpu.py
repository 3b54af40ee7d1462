"""The forms of `cbam_flax.models.forms` that the TPU compiler wants.

A TPU program of this model is bound by passes over its large maps, not by arithmetic
(docs/performance.md), so each form here saves passes, or makes each shorter:

- Images in the lanes. A vector register has 128 lanes. The first stages have too few channels to
  fill them and large maps to broadcast along the channels, so there the images of the batch lie in
  the lanes. Where a device has fewer than 128 images, each is cut into bands of rows, which lie
  side by side like images and exchange the rows at their edges in every convolution.
- Statistics while the map is written. What normalisation and channel gate read of a map is found by
  reductions that XLA fuses with the convolution that writes the map.
- Windows by reshaping. Height and width are the outer dimensions of either layout used here, so
  that the pixels of a pooling window are taken apart, and put together again, without moving them.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from cbam_flax.models.forms import Forms, larger, peak
from cbam_flax.models.forms import pool as plain_pool

LANES = 128
MAX_BANDS = 4  # cheap while a band has many more rows than the two at its edges
# From the outermost dimension to the one in the lanes, of maps (B, H, W, C).
IMAGES_LAST, CHANNELS_LAST = (1, 2, 3, 0), (1, 2, 0, 3)
DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Indexed = tuple[jax.Array, jax.Array]  # a value, and where along the axes it was found


def compiler_options(device_kind: str) -> dict[str, str]:
    """For `jax.jit`: lets one instruction use more of the fast memory than the default 16 MiB.

    Larger windows are fewer windows, with fewer rows read twice. Only of chips with 128 MiB of it.
    """
    roomy = device_kind in ("TPU v5 lite", "TPU v6 lite")
    return {"xla_tpu_scoped_vmem_limit_kib": str(48 * 1024)} if roomy else {}


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
    """Sum, maximum and its index; with `moments` also sum of squares, minimum and its index.

    One reduction of all: XLA gives separate maxima a pass each.
    """
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


def moments(x: jax.Array, bands: int = 1) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Mean, mean of squares, maximum and minimum over all positions of an image.

    `(B bands, H, W, C)` to four times `(B, C)`, float32 or better.
    """
    found = [x.reshape(-1, bands, x.shape[-1]) for x in _moments(x)]
    mean, squares, high, low = found
    return mean.mean(1), squares.mean(1), peak(high, 1), -peak(-low, 1)


@jax.custom_jvp
def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    return _moments_and_places(x)[0]


@_moments.defjvp
def _moments_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    found, (where_high, where_low) = _moments_and_places(x)
    x, dx = x.astype(found[0].dtype), dx.astype(found[0].dtype)
    return found, (
        jnp.mean(dx, (1, 2)),
        jnp.mean(2 * x * dx, (1, 2)),
        _at(dx, where_high, (1, 2)),
        _at(dx, where_low, (1, 2)),
    )


def _moments_and_places(x: jax.Array) -> Any:
    count = x.shape[1] * x.shape[2]
    if x.dtype == jnp.bfloat16 and count <= _LAST + 1:
        # Rounded once more, or XLA might read the numbers before they were rounded to bfloat16.
        exact = lax.reduce_precision(x.astype(jnp.float32), exponent_bits=8, mantissa_bits=7)
        high, where_high = _lowest(-exact)
        low, where_low = _lowest(exact)
        means = jnp.mean(exact, (1, 2)), jnp.mean(exact * exact, (1, 2))
        return (*means, -high, low), (where_high, where_low)
    total, high, where_high, squares, low, where_low = _reduce(x, (1, 2), moments=True)
    return (total / count, squares / count, high, low), (where_high, where_low)


_LAST = 2**16 - 1  # the largest position that the lower half of a float32 can hold
_EXPONENT, _SMALLEST = 0x7F800000, 0x00800000  # of a float32; its smallest number that is normal


def _lowest(x: jax.Array) -> Indexed:
    """Minimum over the positions of float32 that are bfloat16, and where it stands first.

    The lower 16 bits of such a number are free and take its position, so that one minimum finds
    both. That of plain numbers is fused with the convolution that writes x; no other is.
    """
    bits = lax.bitcast_convert_type(x, jnp.int32)
    # A TPU takes what is not normal for zero: zero becomes the smallest normal number.
    bits = jnp.where(bits & _EXPONENT == 0, bits | _SMALLEST, bits)
    position = _index(x, (1, 2))
    # Further bits make a negative number smaller.
    order = jnp.where(bits < 0, _LAST - position, position)
    lowest = jnp.min(lax.bitcast_convert_type(bits | order, jnp.float32), (1, 2))
    bits = lax.bitcast_convert_type(lowest, jnp.int32)
    order = bits & _LAST
    value = lax.bitcast_convert_type(bits - order, jnp.float32)
    return value, jnp.where(bits < 0, _LAST - order, order)


def affine(x: jax.Array, scale: jax.Array, offset: jax.Array, bands: int = 1) -> jax.Array:
    """`forms.affine` with a number for every image, or band, and channel: a whole vector of them.

    One number per channel would be spread over the lanes anew wherever it is used.
    """
    shape = x.shape[0], x.shape[-1]
    if scale.ndim == 1:
        scale, offset = (jnp.broadcast_to(v, shape) for v in (scale, offset))
    else:
        scale, offset = (jnp.repeat(v, bands, axis=0) for v in (scale, offset))
    scale, offset = lax.optimization_barrier((scale, offset))
    return (x * scale[:, None, None] + offset[:, None, None]).astype(x.dtype)


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
    y = _same(x, kernel) if bands == 1 else _band_conv(x, kernel, bands)
    return with_layout_constraint(y, Layout(IMAGES_LAST))


def _same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _band_conv(x: jax.Array, kernel: jax.Array, bands: int) -> jax.Array:
    """Each band by itself, and what the rows next to it in its image add at its edges."""
    y = _same(x, kernel)
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

    dkernel = of_kernel(_same, x, kernel, dy)
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

    By a convolution, which XLA fuses with what computes x: slices would have x written to memory.
    """
    identity = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), (2, 1, *x.shape[-1:] * 2))
    rows = lax.conv_general_dilated(
        x, identity, (x.shape[1], 1), ((1, 1), (0, 0)), dimension_numbers=DIMENSIONS
    )
    return rows[:, :1], rows[:, 1:]


def _neighbours(x: jax.Array, bands: int) -> tuple[jax.Array, jax.Array]:
    """The rows above and below each band in its image, zero outside of it."""
    edges = _edges(x)
    top, bottom = (rows.reshape(-1, bands, *rows.shape[1:]) for rows in edges)
    outside = jnp.zeros_like(top[:, :1])
    above = jnp.concatenate([outside, bottom[:, :-1]], axis=1)
    below = jnp.concatenate([top[:, 1:], outside], axis=1)
    return above.reshape(edges[0].shape), below.reshape(edges[0].shape)


@jax.custom_vjp
def _whole_gradient(x: jax.Array) -> jax.Array:
    """x; its gradient is written to memory once and not computed again by each of its readers."""
    return x


_whole_gradient.defvjp(lambda x: (x, None), lambda _, dx: (lax.optimization_barrier(dx),))


def conv(x: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
    """A convolution whose two gradients read one copy of the cotangent."""
    return _whole_gradient(lax.conv_general_dilated(x, kernel, *args, **options))


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


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def pool(x: jax.Array, layout: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """`forms.pool`, reading each pixel once; where the maximum stood is kept in a byte."""
    return _pool(x, layout)[:2]


def _pool(x: jax.Array, layout: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    # The barriers: XLA would write the windows to memory in the wider type, and have each reader of
    # what is found in them find it again.
    windows = lax.optimization_barrier(_placed(_windows(x), layout))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    pixels = [windows[:, :, i, :, j].astype(wide) for i in (0, 1) for j in (0, 1)]

    def first(a: Indexed, b: Indexed) -> Indexed:
        return larger(a[0], b[0]), jnp.where(a[0] >= b[0], a[1], b[1])

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
    """Of windows, the layout that a map has where no byte moves between the two."""
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

LATE = Forms(
    conv=conv,
    gate_conv=gate_conv,
    mean_and_max=mean_and_max,
    pool=partial(pool, layout=CHANNELS_LAST),
    moments=moments,
)
# For devices that share an image: XLA would bring the pooling windows of all of it together.
SPLIT = LATE._replace(pool=plain_pool)


def early(bands: int) -> Forms:
    """For the first stages, where the images, cut into so many bands, fill the lanes."""
    return LATE._replace(
        conv=partial(band_conv, bands=bands),
        pool=partial(pool, layout=IMAGES_LAST),
        moments=partial(moments, bands=bands),
        affine=partial(affine, bands=bands),
        bands=bands,
    )


def forms(images_per_device: int, rows: int | None) -> tuple[Forms, ...]:
    """For each stage, in a step of that many images per device, of that many rows of pixels each.

    Images of an unknown number of rows, None, are not cut into bands.
    """
    bands = max(LANES // images_per_device, 1)
    fills = images_per_device * bands % LANES == 0
    # A band's rows are halved twice.
    whole = bands == 1 or (bands <= MAX_BANDS and rows is not None and rows % (4 * bands) == 0)
    return (early(bands) if fills and whole else LATE,) * 2 + (LATE,) * 2
