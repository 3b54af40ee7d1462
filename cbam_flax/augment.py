"""Image augmentation on the device, inside the jitted step.

Every example has its own key (`fold_in` of the step's key and the position in the global batch), so
that the result does not depend on how many devices or hosts share the batch.

Geometry is an affine map in centred coordinates: (y, x) in [-1, 1] over the image, whatever its
size. A matrix (2, 3) takes a point of the OUTPUT to the point of the INPUT that it shows.
Sampling is bilinear, at points rounded to 1/256 of a pixel; outside the image it is 0,
the black background of radiographs.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.ndimage import map_coordinates
from ml_collections import ConfigDict

STEPS = 256  # per pixel, of the points that a TPU samples at: weights of 8 bits
# Tiles of the output that a TPU samples one by one, chosen by its compiler's estimates
# (docs/performance.md): their products grow with the side, and cutting out their windows with the
# number. Images below the least number of tiles gain nothing.
TILE, LEAST, MOST = 32, 4, 16  # pixels; tiles along an axis


def augment(
    images: jax.Array, labels: jax.Array, key: jax.Array, config: ConfigDict
) -> tuple[jax.Array, jax.Array]:
    """Augments a batch.

    Args:
        images: float32 (B, S, S, 1) in [0, 1].
        labels: float32 (B,) in {0, 1}, or (B, k) with -1 for "not labelled".
        key: of this step.
        config: `config.augment`.

    Returns:
        Images in [0, 1] and labels, which mixup makes fractions, of the same shapes. A mixture with
        what is not labelled is not labelled.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(images)))
    keys = jax.vmap(lambda k: jax.random.split(k, 4))(keys)
    if moves(config):
        matrices = jax.vmap(lambda k: random_affine(k, config))(keys[:, 0])
        images = jax.vmap(lambda image, matrix: warp(image, matrix, reach(config)))(
            images, matrices
        )
    images = jax.vmap(lambda image, k: random_exposure(image, k, config))(images, keys[:, 1])
    if config.erase:
        images = jax.vmap(lambda image, k: random_erase(image, k, config.erase))(images, keys[:, 2])
    if config.mixup:
        share = jax.vmap(lambda k: jax.random.beta(k, config.mixup, config.mixup))(keys[:, 3])
        images = _mix(images, share[:, None, None, None])
        labels = _mix(labels, share) if labels.ndim == 1 else _mix_labelled(labels, share)
    return images, labels


def moves(config: ConfigDict) -> bool:
    """Whether the config asks for any change of geometry."""
    names = ("rotation", "scale", "shift", "flip_horizontal", "flip_vertical")
    return any(config[name] for name in names)


def random_affine(key: jax.Array, config: ConfigDict) -> jax.Array:
    """One random output-to-input matrix, (2, 3) float32: flips, scale, rotation, then shift."""
    angle, scale, shift, flips = jax.random.split(key, 4)
    radians = jnp.deg2rad(_around(angle, 0.0, config.rotation))
    cosine, sine = jnp.cos(radians), jnp.sin(radians)
    rotation = jnp.array([[cosine, -sine], [sine, cosine]])
    asked = jnp.array([config.flip_vertical, config.flip_horizontal])
    signs = jnp.where(asked & jax.random.bernoulli(flips, 0.5, (2,)), -1.0, 1.0)
    linear = rotation * signs[:, None] / _around(scale, 1.0, config.scale)
    # A shift by a share of the side is twice that in coordinates from -1 to 1.
    return jnp.column_stack([linear, 2 * _around(shift, 0.0, config.shift, (2,))])


def reach(config: ConfigDict) -> float:
    """At most this many pixels of the input, along each axis, lie between two points of the output
    that are one pixel apart along both: a bound for every matrix of `random_affine`.
    """
    radians = math.radians(min(config.rotation, 45))
    return (math.cos(radians) + math.sin(radians)) / (1 - config.scale)


def warp(image: jax.Array, matrix: jax.Array, reach: float = math.inf) -> jax.Array:
    """Resamples (H, W, C) through an output-to-input matrix (2, 3).

    On a TPU the image must be of 8-bit grey levels, as multiples of 1/255.

    Args:
        reach: at least the sum of the magnitudes in each row of the matrix's linear part. A TPU
            then reads only a window of the image for each tile of the output.
    """
    height, width, _ = image.shape
    points = source_points(height, width, matrix)

    def products(image: jax.Array, points: jax.Array) -> jax.Array:
        return sample_by_products(image, points, reach)

    return lax.platform_dependent(image, points, tpu=products, default=sample)


def source_points(height: int, width: int, matrix: jax.Array) -> jax.Array:
    """What every pixel of the output shows: (H, W, 2) as (y, x) in pixels of the input."""
    size = jnp.array([height, width], jnp.float32)
    # The centre of pixel i of n lies at (2 i + 1) / n - 1.
    grid = (2 * jnp.moveaxis(jnp.indices((height, width)), 0, -1) + 1) / size - 1
    return ((grid @ matrix[:, :2].T + matrix[:, 2] + 1) * size - 1) / 2


def sample(image: jax.Array, points: jax.Array) -> jax.Array:
    """The image (H, W, C) at points (H, W, 2), bilinear."""
    coordinates = [points[..., 0], points[..., 1]]
    one = lambda channel: map_coordinates(channel, coordinates, order=1, mode="constant")  # noqa: E731
    return jax.vmap(one, -1, -1)(image)


def sample_by_products(image: jax.Array, points: jax.Array, reach: float = math.inf) -> jax.Array:
    """`sample` without gathers, which cost a TPU 14 cycles per element (docs/performance.md).

    Rounds points to 1/256 pixel. Grey levels and weights have 8 bits each, so bfloat16 (a TPU's
    default in products) holds them exactly, and float32 the sums: the tiles change no bit.

    Args:
        image: float32 (H, W, C), multiples of 1/255.
        points: float32 (H, W, 2), an affine function of the position.
        reach: as in `warp`.
    """
    sides = image.shape[:2]
    levels = jnp.round(image * 255)
    points = jnp.round(points * STEPS) / STEPS
    count = min(max(sides) // TILE, MOST)  # along both axes, so that tiles have the image's shape
    count = count if count >= LEAST else 1
    tile = [math.ceil(side / count) for side in sides]
    # The neighbours of all points of a tile: one pixel more than they span, and two for the floor.
    window = [min(side, reach * size + 3) for side, size in zip(sides, tile, strict=True)]
    height, width = map(int, window)
    if (height, width) == sides:
        return (_bilinear(levels, points) / 255).astype(image.dtype)

    def sample_tile(points: jax.Array) -> jax.Array:
        first = jnp.floor(points.min(axis=(0, 1)))
        y, x = jnp.clip(first, 0, jnp.array(sides) - jnp.array([height, width]))
        rows = jax.nn.one_hot(y + jnp.arange(height), sides[0])
        columns = jax.nn.one_hot(x + jnp.arange(width), sides[1])
        inside = _product("uy,yxc->uxc", rows, levels)
        inside = _product("uxc,vx->uvc", inside, columns)
        return _bilinear(inside, points - jnp.stack([y, x]))

    missing = [(0, count * size - side) for side, size in zip(sides, tile, strict=True)]
    points = jnp.pad(points, [*missing, (0, 0)], mode="edge")
    tiles = points.reshape(count, tile[0], count, tile[1], 2).swapaxes(1, 2)
    sampled = jax.vmap(jax.vmap(sample_tile))(tiles).swapaxes(1, 2)
    sampled = sampled.reshape(*points.shape[:2], -1)[: sides[0], : sides[1]]
    return (sampled / 255).astype(image.dtype)


def _bilinear(levels: jax.Array, points: jax.Array) -> jax.Array:
    """The levels, float32 (H, W, C), at points (P, Q, 2): float32 (P, Q, C).

    First the weights of all rows, most of them 0, in a matrix product with the image; then those of
    all columns.
    """
    height, width, _ = levels.shape
    y, x = points.reshape(-1, 2).T

    def weights(coordinate: jax.Array, size: int) -> jax.Array:
        """Of every pixel (rows) at every point (columns)."""
        return jnp.maximum(1 - jnp.abs(coordinate - jnp.arange(size)[:, None]), 0)

    columns = _product("yxc,yp->cxp", levels, weights(y, height))
    sampled = jnp.sum(columns * weights(x, width), axis=1)
    return jnp.moveaxis(sampled.reshape(-1, *points.shape[:2]), 0, -1)


_product = partial(jnp.einsum, precision=lax.Precision.DEFAULT)


def invert(matrix: jax.Array) -> jax.Array:
    """The matrix (2, 3) of the opposite direction; `warp` with it carries attention maps back."""
    linear = jnp.linalg.inv(matrix[:, :2])
    return jnp.column_stack([linear, -linear @ matrix[:, 2]])


def move_boxes(boxes: jax.Array, matrix: jax.Array) -> jax.Array:
    """Where boxes of the input lie in the output: the bounding boxes of their moved corners.

    Args:
        boxes: (K, 4) as ymin, xmin, ymax, xmax in [0, 1].
        matrix: output-to-input, as for `warp`.

    Returns:
        (K, 4) in the same format, clipped to the image.
    """
    corners = boxes[:, jnp.array([[0, 1], [0, 3], [2, 1], [2, 3]])] * 2 - 1
    forward = invert(matrix)
    moved = (corners @ forward[:, :2].T + forward[:, 2] + 1) / 2
    return jnp.clip(jnp.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=-1), 0, 1)


def random_exposure(image: jax.Array, key: jax.Array, config: ConfigDict) -> jax.Array:
    """Brightness (added), contrast (about the mean) and gamma of one image, clipped to [0, 1]."""
    brightness, contrast, gamma = jax.random.split(key, 3)
    if config.brightness or config.contrast:
        mean = image.mean()
        image = (image - mean) * _around(contrast, 1.0, config.contrast) + mean
        image = jnp.clip(image + _around(brightness, 0.0, config.brightness), 0, 1)
    if config.gamma:
        image = image ** jnp.exp(_around(gamma, 0.0, config.gamma))
    return image


def random_erase(image: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Sets one rectangle, each side 10 to 40 % of the image's, to 0 (Zhong et al. 2020)."""
    happens, sides, corner = jax.random.split(key, 3)
    size = jnp.array(image.shape[:2])
    extent = jax.random.uniform(sides, (2,), minval=0.1, maxval=0.4) * size
    start = jax.random.uniform(corner, (2,)) * (size - extent)
    y, x = jnp.indices(image.shape[:2])
    inside_y = (y >= start[0]) & (y < start[0] + extent[0])
    inside_x = (x >= start[1]) & (x < start[1] + extent[1])
    erased = inside_y & inside_x & jax.random.bernoulli(happens, probability)
    return jnp.where(erased[..., None], 0.0, image)


def _mix(values: jax.Array, share: jax.Array) -> jax.Array:
    """Each example with the one opposite it in the batch (mixup, Zhang et al. 2018)."""
    return share * values + (1 - share) * values[::-1]


def _mix_labelled(labels: jax.Array, share: jax.Array) -> jax.Array:
    """`_mix` of labels (B, k), -1 where either is not labelled."""
    both = (labels >= 0) & (labels[::-1] >= 0)
    return jnp.where(both, _mix(labels, share[:, None]), -1)


def _around(key: jax.Array, centre: float, spread: float, shape: tuple[int, ...] = ()) -> jax.Array:
    return jax.random.uniform(key, shape, minval=centre - spread, maxval=centre + spread)
