"""Convolutions for XLA:CPU.

XLA:CPU is fast at convolutions except kernel gradients, whose window is as large as the map, and
inputs with one or two channels. With enough channels Winograd's algorithm is faster still.
docs/performance.md has the times.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax import lax

from cbam_flax.models.ops.convolution import winograd
from cbam_flax.models.ops.convolution.reference import same

# For maps with no more elements than this, lax's kernel gradient is faster.
SMALL = 3 * 2**20
BLOCK = 1024  # pixels whose channels stay in a core's cache while all taps read them
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
    check(kernel, strides, padding)
    return _conv(x, kernel, tuple(rhs_dilation))


def check(kernel: jax.Array, strides: Sequence[int], padding: Any) -> None:
    if padding != "SAME" or set(strides) != {1} or not all(size % 2 for size in kernel.shape[:2]):
        raise ValueError(
            f"a convolution of size {kernel.shape[:2]}, strides {strides}, padding {padding!r}; "
            "on a CPU it must be odd, 1, 'SAME'"
        )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, rates: Sizes) -> jax.Array:
    if winograd.pays(x.shape, kernel.shape, rates):
        return winograd.conv(x, kernel, rates[0])
    if x.shape[-1] != 1:
        return same(x, kernel, rates)
    # XLA fuses the sum into its consumers, which is cheaper than writing and reading it.
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
    elif jax.export.is_symbolic_dim(x.shape[0]) or x.size <= SMALL:
        # An exported function, whose batch is any, has gradients with respect to its input alone.
        (dkernel,) = jax.vjp(lambda kernel: same(x, kernel, rates), kernel)[1](dy)
    else:
        dkernel = _kernel_gradient(x, dy, kernel.shape, rates)
    return dx, dkernel.astype(kernel.dtype)


_conv.defvjp(_conv_forward, _conv_backward)


def _padded(x: jax.Array, kernel_shape: Sizes, rates: Sizes) -> jax.Array:
    edges = [rate * (size // 2) for size, rate in zip(kernel_shape, rates, strict=False)]
    return jnp.pad(x, ((0, 0), *((edge, edge) for edge in edges), (0, 0)))


def _taps(
    padded: jax.Array, height: int, width: int, kernel_shape: Sizes, rates: Sizes
) -> list[jax.Array]:
    """For each tap of the kernel, row by row, the part of a padded map that it reads."""
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
        # Transposed once, for all taps; without the barrier each product does it again.
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
    """All taps' inputs stacked, in a single product with `dy`."""
    _, height, width, features = dy.shape
    seen = _taps(_padded(x, kernel_shape, rates)[..., 0], height, width, kernel_shape, rates)
    dtype = jnp.promote_types(dy.dtype, jnp.float32)
    patches = jnp.stack(seen).reshape(len(seen), -1)
    product = jnp.dot(patches, dy.reshape(-1, features), preferred_element_type=dtype)
    return product.reshape(kernel_shape)
