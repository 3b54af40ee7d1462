"""3x3 convolutions by Winograd's algorithm F(4x4, 3x3): a quarter of the multiplications.

Seen as polynomials in both directions, a tile of 4x4 outputs is the product of 6x6 inputs and the
kernel, and a product of polynomials is known from its values at 6x6 points: 36 multiplications in
place of 4 x 4 x 9 (Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks"). Between
taking inputs and kernel to their values (`INPUT`, `KERNEL`) and the products to the outputs
(`OUTPUT`) stands a matrix product over the channels for each point.

The exchange is exact; in float32 its rounding errors are five times those of the direct sum. A
kernel at rate d works on each of the d x d maps of every d-th row and column. The tiles are taken a
block at a time, so that their values stay in the cache.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

TILE = 4
# And infinity. Each near to another's inverse, which halves the error of the usual 1, -1, 2, -2.
POINTS = (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)
BLOCK = 448  # tiles; of 64 channels their values take 4 MB, and as much their products


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`INPUT` 6x6, `KERNEL` 6x3 and `OUTPUT` 4x6 (Toom-Cook), a row or column for each point."""
    of_input, of_kernel, to_output = np.zeros((6, 6)), np.zeros((6, 3)), np.zeros((TILE, 6))
    for number, point in enumerate(POINTS):
        others = [other for other in POINTS if other != point]
        of_input[number, :5] = np.poly(others)[::-1]
        of_kernel[number] = point ** np.arange(3) / np.prod([point - other for other in others])
        to_output[:, number] = point ** np.arange(TILE)
    of_input[5], of_kernel[5, 2], to_output[TILE - 1, 5] = np.poly(POINTS)[::-1], 1, 1
    return of_input, of_kernel, to_output


INPUT, KERNEL, OUTPUT = _matrices()


def _times(matrix: np.ndarray, parts: jax.Array | list[jax.Array], axis: int = 0) -> jax.Array:
    """The matrix times a vector whose numbers are arrays; its rows' results along a new axis."""
    rows = [
        sum(float(factor) * part for factor, part in zip(row, list(parts), strict=True) if factor)
        for row in matrix
    ]
    return jnp.stack(rows, axis)


class Blocks(NamedTuple):
    """How maps are cut: a block is some rows of tiles of every image, of every rate-th row.

    Never the batch, which may be split over devices.
    """

    down: int  # tiles from top to bottom, in which the rows of the rate lie interleaved
    across: int
    rate: int
    rows: int  # of tiles in a block

    @classmethod
    def of(cls, shape: Sequence[int], rate: int) -> "Blocks":
        batch, height, width, _ = shape
        down, across = (-(-size // (TILE * rate)) for size in (height, width))
        most = max(BLOCK // (batch * across * rate), 1)
        rows = max(n for n in range(1, down + 1) if down % n == 0 and n <= most)
        return cls(down, across, rate, rows)

    @property
    def number(self) -> int:
        return self.down // self.rows * self.rate

    def place(self, number: jax.Array) -> tuple[Any, ...]:
        """Where the block starts in what `split` returns."""
        return 0, number // self.rate * self.rows * TILE, number % self.rate, 0, 0

    def split(self, x: jax.Array) -> jax.Array:
        """Maps to `(B, rows, rate, W, C)`, with rows of zeros added to whole tiles."""
        height = self.down * TILE * self.rate
        x = jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, 0), (0, 0)))
        return x.reshape(x.shape[0], -1, self.rate, *x.shape[2:])

    def read(self, x: jax.Array, number: jax.Array, edge: int) -> jax.Array:
        """A block's pixels and `edge` more on each side: `(B, rows, columns, rate, C)`."""
        batch, height, _, width, channels = x.shape
        _, row, *rest = self.place(number)

        def take(start: jax.Array, count: int) -> jax.Array:
            return lax.dynamic_slice(x, (0, start, *rest), (batch, count, 1, width, channels))

        inside = self.rows * TILE
        parts = {edge: take(row, inside)}
        if edge:
            parts[0] = jnp.where(row > 0, take(jnp.maximum(row - edge, 0), edge), 0)
            below = jnp.where(row + inside < height, take(row + inside, edge), 0)
            parts[edge + inside] = below
        # Written into zeros and not padded: XLA:CPU is slow at choosing number by number.
        columns = (self.across * TILE + 2 * edge) * self.rate
        pixels = jnp.zeros((batch, inside + 2 * edge, columns, channels), x.dtype)
        for start, part in parts.items():
            at = (0, start, edge * self.rate, 0)
            pixels = lax.dynamic_update_slice(pixels, part[:, :, 0], at)
        pixels = pixels.reshape(batch, inside + 2 * edge, -1, self.rate, channels)
        return pixels.astype(jnp.promote_types(x.dtype, jnp.float32))


def pays(shape: Sequence[int], kernel_shape: Sequence[int], rates: Sequence[int]) -> bool:
    """Whether this form is the faster one, for maps and a kernel of these shapes.

    By the multiplications of a tile, and the work of taking a number to its values and back, which
    is that of about 40. Tiles also cover what is missing to whole ones.
    """
    _, height, width, channels = shape
    *size, _, features = kernel_shape
    if size != [3, 3] or len(set(rates)) != 1:
        return False
    step = TILE * rates[0]
    tiles = -(-height // step) * -(-width // step) * rates[0] ** 2
    products = channels * features
    return 9 * height * width * products > 36 * tiles * (products + 40 * (channels + features))


def _at_points(matrix: np.ndarray, pixels: jax.Array) -> jax.Array:
    """The values at the points of each tile, or of it and its edge: `(36, tiles, channels)`."""
    reach = matrix.shape[1]
    for axis in (1, 3):  # rows, then columns, which the values of the rows have moved on by one
        end = pixels.shape[axis] - reach + 1
        parts = [lax.slice_in_dim(pixels, i, i + end, TILE, axis=axis) for i in range(reach)]
        pixels = _times(matrix, parts)
    return pixels.reshape(36, -1, pixels.shape[-1])


def conv(x: jax.Array, kernel: jax.Array, rate: int) -> jax.Array:
    """Stride 1, padding "SAME", `kernel` 3x3 at a rate: `(B, H, W, C)` to `(B, H, W, F)`."""
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    blocks = Blocks.of(x.shape, rate)
    x = blocks.split(x)
    kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    kernel = _times(KERNEL, _times(KERNEL, kernel, 1)).reshape(36, channels, features)

    def write(number: jax.Array, y: jax.Array) -> jax.Array:
        products = _at_points(INPUT, blocks.read(x, number, 1)) @ kernel
        products = products.reshape(6, 6, batch, blocks.rows, blocks.across, rate, features)
        pixels = _times(OUTPUT, _times(OUTPUT, products, 4), 2)
        pixels = pixels.reshape(batch, blocks.rows * TILE, 1, -1, features)[:, :, :, :width]
        return lax.dynamic_update_slice(y, pixels.astype(y.dtype), blocks.place(number))

    # Any number of x does. Zeros, which wait for nothing, would be written when the program starts,
    # those of all convolutions at once.
    y = jnp.broadcast_to(x[0, 0, 0, 0, 0], (*x.shape[:4], features))
    y = lax.fori_loop(0, blocks.number, write, y)
    return y.reshape(batch, -1, width, features)[:, :height]


def kernel_gradient(x: jax.Array, dy: jax.Array, rate: int) -> jax.Array:
    """Of `conv` by its kernel, given the gradient by its outputs: `(3, 3, C, F)`."""
    channels, features = x.shape[-1], dy.shape[-1]
    blocks = Blocks.of(x.shape, rate)
    x, dy = blocks.split(x), blocks.split(dy)

    def add(number: jax.Array, total: jax.Array) -> jax.Array:
        read = _at_points(INPUT, blocks.read(x, number, 1))
        written = _at_points(OUTPUT.T, blocks.read(dy, number, 0))
        return total + jnp.einsum("ptc,ptf->pcf", read, written)

    dtype = jnp.promote_types(x.dtype, jnp.float32)
    total = jnp.zeros((36, channels, features), dtype)
    total = lax.fori_loop(0, blocks.number, add, total).reshape(6, 6, channels, features)
    return _times(KERNEL.T, _times(KERNEL.T, total, 1))
