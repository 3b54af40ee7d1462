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

from cbam_flax.models.ops.cpu import planned_batch

TILE = 4
# And infinity. Each near to another's inverse, which halves the error of the usual 1, -1, 2, -2.
POINTS = (0, 5 / 8, -5 / 8, 3 / 2, -3 / 2)
BLOCK = 448  # tiles; of 64 channels their values take 4 MB, and as much their products


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`INPUT` 6x6, `OUTPUT` 4x6 (Toom-Cook), and `KERNEL` 36x9, both directions at once."""
    of_input, of_kernel, to_output = np.zeros((6, 6)), np.zeros((6, 3)), np.zeros((TILE, 6))
    for number, point in enumerate(POINTS):
        others = [other for other in POINTS if other != point]
        of_input[number, :5] = np.poly(others)[::-1]
        of_kernel[number] = point ** np.arange(3) / np.prod([point - other for other in others])
        to_output[:, number] = point ** np.arange(TILE)
    of_input[5], of_kernel[5, 2], to_output[TILE - 1, 5] = np.poly(POINTS)[::-1], 1, 1
    return of_input, to_output, np.kron(of_kernel, of_kernel)


INPUT, OUTPUT, KERNEL = _matrices()


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
        _, height, width, _ = shape
        down, across = (-(-size // (TILE * rate)) for size in (height, width))
        most = max(BLOCK // (planned_batch(shape) * across * rate), 1)
        rows = max(n for n in range(1, down + 1) if down % n == 0 and n <= most)
        return cls(down, across, rate, rows)

    @property
    def number(self) -> int:
        return self.down // self.rows * self.rate

    def place(self, number: jax.Array) -> tuple[Any, ...]:
        """Where the block starts in what `split` returns."""
        return 0, lax.div(number, self.rate) * self.rows * TILE, lax.rem(number, self.rate), 0, 0

    def split(self, x: jax.Array) -> jax.Array:
        """Maps to `(B, rows, rate, W, C)`, with rows of zeros added to whole tiles."""
        height = self.down * TILE * self.rate
        x = jnp.pad(x, ((0, 0), (0, height - x.shape[1]), (0, 0), (0, 0)))
        return x.reshape(x.shape[0], -1, self.rate, *x.shape[2:])

    def at_points(self, matrix: np.ndarray, x: jax.Array, number: jax.Array) -> jax.Array:
        """The values of a block's tiles, and of the edge that they share: `(36, tiles, channels)`.

        The points across vary before those down. Dimensions are taken together where they can be:
        the code that XLA:CPU makes for many takes three times as long to compile.
        """
        batch, height, _, width, channels = x.shape
        _, row, *rest = self.place(number)
        reach = matrix.shape[1]
        edge, inside = (reach - TILE) // 2, self.rows * TILE
        size = min(inside + 2 * edge, height)
        first = jnp.clip(row - edge, 0, height - size)
        pixels = lax.dynamic_slice(x, (0, first, *rest), (batch, size, 1, width, channels))
        # Written into zeros, which are what lies outside the map; a pad is slower in XLA:CPU.
        columns = self.across * TILE + 2 * edge
        around = jnp.zeros((batch, inside + 4 * edge, columns * self.rate, channels), x.dtype)
        place = (0, first - row + 2 * edge, edge * self.rate, 0)
        around = lax.dynamic_update_slice(around, pixels[:, :, 0], place)
        around = around.astype(jnp.promote_types(x.dtype, jnp.float32))

        def along(x: jax.Array, start: int, tiles: int) -> jax.Array:
            end = start + (tiles - 1) * TILE + 1
            return _times(matrix, [x[:, :, start + i : end + i : TILE] for i in range(reach)])

        down = along(around.reshape(1, batch, inside + 4 * edge, -1), edge, self.rows)
        both = along(down.reshape(6, -1, columns, self.rate * channels), 0, self.across)
        return both.reshape(36, -1, channels)


def pays(shape: Sequence[int], kernel_shape: Sequence[int], rates: Sequence[int]) -> bool:
    """Whether this algorithm is faster, for maps and a kernel of these shapes.

    Compares multiplications per tile, counting the transform of an element and back as about 40.
    Tiles at the edge count in full.
    """
    _, height, width, channels = shape
    *size, _, features = kernel_shape
    if size != [3, 3] or len(set(rates)) != 1:
        return False
    step = TILE * rates[0]
    tiles = -(-height // step) * -(-width // step) * rates[0] ** 2
    products = channels * features
    return 9 * height * width * products > 36 * tiles * (products + 40 * (channels + features))


def conv(x: jax.Array, kernel: jax.Array, rate: int) -> jax.Array:
    """Stride 1, padding "SAME", `kernel` 3x3 at a rate: `(B, H, W, C)` to `(B, H, W, F)`."""
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    blocks = Blocks.of(x.shape, rate)
    x = blocks.split(x)
    kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    kernel = kernel.swapaxes(0, 1).reshape(9, -1)
    kernel = (jnp.asarray(KERNEL, kernel.dtype) @ kernel).reshape(36, channels, features)

    def write(number: jax.Array, y: jax.Array) -> jax.Array:
        products = blocks.at_points(INPUT, x, number) @ kernel
        across = _times(OUTPUT, products.reshape(6, 6, batch, blocks.rows, -1, rate * features), 4)
        pixels = _times(OUTPUT, across, 2)
        pixels = pixels.reshape(batch, blocks.rows * TILE, 1, -1, features)[:, :, :, :width]
        return lax.dynamic_update_slice(y, pixels.astype(y.dtype), blocks.place(number))

    # Any value of x will do. Zeros depend on nothing, so XLA would allocate those of all
    # convolutions at the start of the program.
    y = jnp.broadcast_to(x[0, 0, 0, 0, 0], (*x.shape[:4], features))
    y = lax.fori_loop(0, blocks.number, write, y)
    return y.reshape(batch, -1, width, features)[:, :height]


def kernel_gradient(x: jax.Array, dy: jax.Array, rate: int) -> jax.Array:
    """Of `conv` by its kernel, given the gradient by its outputs: `(3, 3, C, F)`."""
    channels, features = x.shape[-1], dy.shape[-1]
    blocks = Blocks.of(x.shape, rate)
    x, dy = blocks.split(x), blocks.split(dy)

    def add(number: jax.Array, total: jax.Array) -> jax.Array:
        read = blocks.at_points(INPUT, x, number)
        written = blocks.at_points(OUTPUT.T, dy, number)
        return total + jnp.einsum("ptc,ptf->pcf", read, written)

    dtype = jnp.promote_types(x.dtype, jnp.float32)
    total = jnp.zeros((36, channels, features), dtype)
    total = lax.fori_loop(0, blocks.number, add, total)
    gradient = jnp.asarray(KERNEL.T, dtype) @ total.reshape(36, -1)
    return gradient.reshape(3, 3, channels, features).swapaxes(0, 1)
