"""The forms of the model's pieces that are fast on a CPU, in its compiler's hands.

XLA:CPU convolves well, except where autodiff makes the window as large as the map (the gradient of
a kernel) and where there are one or two channels. Winograd's algorithm convolves better still where
there are enough channels. docs/performance.md has the times.
"""

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cbam_flax.models import winograd
from cbam_flax.models.forms import Forms

# Numbers of a map that stays in the last cache, in float32.
CACHED = 2**22
# A batch of maps with no more numbers than this has its kernel gradient from lax, then the faster.
SMALL = 3 * 2**20
BLOCK = 1024  # pixels whose channels stay in a core's cache while all taps read them

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Sizes = tuple[int, ...]


def conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Any,
    rhs_dilation: Sequence[int] = (1, 1),
    **_: Any,
) -> jax.Array:
    """A convolution of stride 1 and padding "SAME", of odd size."""
    _check(kernel, strides, padding)
    return _conv(x, kernel, tuple(rhs_dilation))


def _check(kernel: jax.Array, strides: Sequence[int], padding: Any) -> None:
    if padding != "SAME" or set(strides) != {1} or not all(size % 2 for size in kernel.shape[:2]):
        raise ValueError(
            f"a convolution of size {kernel.shape[:2]}, strides {strides}, padding {padding!r}; "
            "for the forms of a CPU it must be odd, 1, 'SAME'"
        )


def _plain(x: jax.Array, kernel: jax.Array, rates: Sizes) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", rhs_dilation=rates, dimension_numbers=DIMENSIONS
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, rates: Sizes) -> jax.Array:
    if winograd.pays(x.shape, kernel.shape, rates):
        return winograd.conv(x, kernel, rates[0])
    if x.shape[-1] != 1:
        return _plain(x, kernel, rates)
    # The sum is computed within whatever reads it, which costs less than to write and read it.
    padded = lax.optimization_barrier(_padded(x, kernel.shape, rates))
    taps = _taps(padded, x.shape[1], x.shape[2], kernel.shape, rates)
    return reduce(jnp.add, map(jnp.multiply, taps, kernel.reshape(-1, kernel.shape[-1])))


def _conv_forward(x: jax.Array, kernel: jax.Array, rates: Sizes) -> Any:
    return _conv(x, kernel, rates), (x, kernel)


def _conv_backward(rates: Sizes, saved: Any, dy: jax.Array) -> Any:
    x, kernel = saved
    dx = _conv(dy, kernel[::-1, ::-1].swapaxes(2, 3), rates)
    if winograd.pays(x.shape, kernel.shape, rates):
        dkernel = winograd.kernel_gradient(x, dy, rates[0])
    elif x.shape[-1] == 1:
        dkernel = _one_channel_kernel_gradient(x, dy, kernel.shape, rates)
    elif x.size > SMALL:
        dkernel = _kernel_gradient(x, dy, kernel.shape, rates)
    else:
        (dkernel,) = jax.vjp(lambda kernel: _plain(x, kernel, rates), kernel)[1](dy)
    return dx, dkernel.astype(kernel.dtype)


_conv.defvjp(_conv_forward, _conv_backward)


def _padded(x: jax.Array, kernel_shape: Sizes, rates: Sizes) -> jax.Array:
    edges = [rate * (size // 2) for size, rate in zip(kernel_shape, rates, strict=False)]
    return jnp.pad(x, ((0, 0), *((edge, edge) for edge in edges), (0, 0)))


def _taps(
    padded: jax.Array, height: int, width: int, kernel_shape: Sizes, rates: Sizes
) -> list[jax.Array]:
    """For each tap of the kernel, row by row, what it reads of a padded map."""
    (taps_down, taps_across), (down, across) = kernel_shape[:2], rates
    return [
        padded[:, i * down : i * down + height, j * across : j * across + width]
        for i in range(taps_down)
        for j in range(taps_across)
    ]


def _kernel_gradient(x: jax.Array, dy: jax.Array, kernel_shape: Sizes, rates: Sizes) -> jax.Array:
    """One matrix product over the pixels for each tap of the kernel, a few rows at a time."""
    batch, height, width, features = dy.shape
    taps_down, taps_across, channels, _ = kernel_shape
    reach = (taps_down - 1) * rates[0]
    rows = min(max(BLOCK // (batch * width), 1), height)
    blocks = -(-height // rows)
    missing = ((0, 0), (0, blocks * rows - height), (0, 0), (0, 0))
    x, dy = jnp.pad(_padded(x, kernel_shape, rates), missing), jnp.pad(dy, missing)
    dtype = jnp.promote_types(dy.dtype, jnp.float32)

    def add(block: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        read = lax.dynamic_slice_in_dim(x, block * rows, rows + reach, 1)
        written = lax.dynamic_slice_in_dim(dy, block * rows, rows, 1)
        # Turned round once, for all taps; without the barrier each product does it again.
        written = lax.optimization_barrier(written.reshape(-1, features).T)
        seen = _taps(read, rows, width, kernel_shape, rates)
        return [
            total + jnp.dot(written, pixels.reshape(-1, channels), preferred_element_type=dtype)
            for total, pixels in zip(sums, seen, strict=True)
        ]

    zeros = [jnp.zeros((features, channels), dtype)] * (taps_down * taps_across)
    sums = lax.fori_loop(0, blocks, add, zeros)
    return jnp.stack([total.T for total in sums]).reshape(kernel_shape)


def _one_channel_kernel_gradient(
    x: jax.Array, dy: jax.Array, kernel_shape: Sizes, rates: Sizes
) -> jax.Array:
    """The maps that the taps read, side by side, in a single product with `dy`."""
    _, height, width, features = dy.shape
    seen = _taps(_padded(x, kernel_shape, rates)[..., 0], height, width, kernel_shape, rates)
    dtype = jnp.promote_types(dy.dtype, jnp.float32)
    patches = jnp.stack(seen).reshape(len(seen), -1)
    product = jnp.dot(patches, dy.reshape(-1, features), preferred_element_type=dtype)
    return product.reshape(kernel_shape)


@jax.custom_vjp
def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """`x @ matrix` for maps; autodiff would turn `dy` round in memory for the matrix' gradient."""
    return x @ matrix


def _product_forward(x: jax.Array, matrix: jax.Array) -> Any:
    return product(x, matrix), (x, matrix)


def _product_backward(saved: Any, dy: jax.Array) -> Any:
    x, matrix = saved
    rows, dy_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dtype = jnp.promote_types(dy.dtype, jnp.float32)
    dmatrix = jnp.dot(rows.T, dy_rows, preferred_element_type=dtype)
    return dy @ matrix.T, dmatrix.astype(matrix.dtype)


product.defvjp(_product_forward, _product_backward)


def gate_conv(
    maps: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any
) -> jax.Array:
    """The same from a few maps to one: every tap is a shifted map times a number."""
    _check(kernel, strides, padding)
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
    (dkernel,) = jax.vjp(lambda kernel: _plain(maps, kernel, (1, 1)), kernel)[1](dy)
    return jnp.stack(dmaps, axis=-1), dkernel


_gate_conv.defvjp(_gate_forward, _gate_backward)


def _correlate(planes: list[jax.Array], kernel: jax.Array) -> jax.Array:
    """Correlates each plane `(B, H, W)` with its `kernel[..., number]`, and adds them up.

    First what each column of the kernel finds, then the columns side by side; the barriers keep the
    compiler from making one loop of it all, which would read each number 49 times.
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


def mean_and_max(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """`forms.mean_and_max`, which finds where the maximum is in two steps."""
    return jnp.mean(x, axis), _peak(x, axis % x.ndim)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _peak(x: jax.Array, axis: int) -> jax.Array:
    return jnp.max(x, axis)


@_peak.defjvp
def _peak_jvp(axis: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    index = _last_axis_argmax(x) if axis == x.ndim - 1 else _position(x, axis, jnp.max, lax.argmax)
    first = lax.broadcasted_iota(jnp.int32, x.shape, axis) == jnp.expand_dims(index, axis)
    return jnp.max(x, axis), jnp.sum(jnp.where(first, dx, 0), axis)


@jax.custom_jvp
def moments(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
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


@moments.defjvp
def _moments_jvp(primals: Any, tangents: Any) -> Any:
    pixels, changes = _pixels(*primals), _pixels(*tangents)

    def at(index: jax.Array) -> jax.Array:
        here = lax.broadcasted_iota(jnp.int32, pixels.shape, 1) == index[:, None]
        return jnp.sum(jnp.where(here, changes, 0), 1)

    return moments(*primals), (
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


def group(shape: Sequence[int], features: int) -> int:
    """As many images as leave their maps in the cache; all where devices may share the batch."""
    images, height, width, _ = shape
    if jax.device_count() > 1:
        return images
    most = max(CACHED // (height * width * features), 1)
    return max(n for n in range(1, most + 1) if images % n == 0)


FORMS = Forms(
    conv=conv,
    gate_conv=gate_conv,
    product=product,
    mean_and_max=mean_and_max,
    moments=moments,
    group=group,
)
