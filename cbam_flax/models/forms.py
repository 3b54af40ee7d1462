"""The pieces of the model that one compiler wants written differently than another.

Every form of a piece computes the same function; the tests hold each against the plain one. Which
is used where is decided by `cbam_flax.models.create_model`, and nowhere else.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def peak(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.max` over one axis, whose gradient goes to the first maximum, found by its index.

    The gradient of `jnp.max` goes to the elements that equal the result. There may be none: a
    compiler may compute x once for the maximum and once more for the comparison, and round the two
    differently. XLA:CPU does, and the gradient is lost or becomes 0/0 (docs/architecture.md).
    """
    return jnp.max(x, axis)


@peak.defjvp
def _peak_jvp(axis: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    index = jnp.argmax(x, axis, keepdims=True)
    first = jax.lax.broadcasted_iota(index.dtype, x.shape, axis % x.ndim) == index
    return jnp.max(x, axis), jnp.sum(jnp.where(first, dx, 0), axis)


def mean_and_max(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """What the gates read: the mean and the maximum over one axis."""
    return jnp.mean(x, axis), peak(x, axis)


def corners(x: jax.Array) -> list[jax.Array]:
    """The four pixels of every 2x2 window, each `(B, H // 2, W // 2, C)`; an odd edge is dropped.

    Strided slices, because XLA turns their gradient into plain adds; that of a reduce-window
    maximum is a select-and-scatter, several times slower on CPU and on TPU.
    """
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


def larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.maximum`, whose gradient goes to the one found larger by comparing the two.

    The gradient of `jnp.maximum` compares each with the RESULT, and a compiler that computes them
    again for that, rounded differently, finds neither equal and drops the gradient
    (docs/architecture.md, "A maximum's gradient").
    """
    return jnp.where(a >= b, a, b)


def pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maximum and mean of every 2x2 window, `(B, H, W, C)` to twice `(B, H // 2, W // 2, C)`."""
    pixels = corners(x)
    return reduce(larger, pixels), reduce(jnp.add, pixels) / 4


def mean_and_squares(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and mean of squares of every channel, `(B, H, W, C)` to `(C,)`, float32 or better."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.mean(x, (1, 2)).mean(0), jnp.mean(jnp.square(x), (1, 2)).mean(0)


def affine(x: jax.Array, scale: jax.Array, offset: jax.Array) -> jax.Array:
    """`x * scale + offset`, for maps `(B, H, W, C)` and numbers `(C,)` or `(B, C)`."""
    return (x * scale[..., None, None, :] + offset[..., None, None, :]).astype(x.dtype)


def all_images(shape: Sequence[int], features: int) -> int:
    """All of a batch `(B, H, W, C)` at once."""
    return shape[0]


def rebanded(x: jax.Array, before: int, after: int) -> jax.Array:
    """Maps whose images are cut into `before` bands of rows each, cut into `after` instead.

    `(B before, H / before, W, C)` to `(B after, H / after, W, C)`.
    """
    batch, height, width, channels = x.shape
    return x.reshape(batch * after // before, height * before // after, width, channels)


class Forms(NamedTuple):
    """One form of each piece; the defaults are the plain ones, which every compiler and ONNX take.

    The convolutions have the signature of `jax.lax.conv_general_dilated`, as `nn.Conv` calls it.
    """

    conv: Callable[..., Any] | None = None  # 3x3, of blocks and pyramids; None: lax's
    gate_conv: Callable[..., Any] | None = None  # 7x7 from the two maps of a spatial gate
    product: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul  # of maps and a matrix
    mean_and_max: Callable[[jax.Array, int], tuple[jax.Array, jax.Array]] = mean_and_max
    pool: Callable[[jax.Array], tuple[jax.Array, jax.Array]] = pool
    # Of all positions: mean, mean of squares, maximum, minimum. Given, a block's BatchNorms become
    # affine maps, the second one together with the channel gate.
    moments: Callable[[jax.Array], tuple[jax.Array, ...]] | None = None
    affine: Callable[..., jax.Array] = affine
    # How many images of a batch of this shape inference takes at a time while the maps are large;
    # their channels are `features` or more.
    group: Callable[[Sequence[int], int], int] = all_images
    bands: int = 1  # of rows that each image is cut into; they take the place of images in maps


PLAIN = Forms()
