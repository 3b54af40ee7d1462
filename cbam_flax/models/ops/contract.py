"""The ops that a model is made of: what each computes, and which implementation is used.

An op is a function of arrays. Its implementations (`reference`, `cpu`, `tpu`, one file each in the
op's folder) compute the same; the tests compare each with the reference, which runs on every
platform and exports to ONNX. Maps are `(B, H, W, C)`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cbam_flax.models.ops.affine import reference as affine
from cbam_flax.models.ops.pooling import reference as pooling
from cbam_flax.models.ops.statistics import reference as statistics

PositionStatistics = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def full_batch(shape: Sequence[int], features: int) -> int:
    """The full batch `(B, H, W, C)` at once."""
    return shape[0]


class Ops(NamedTuple):
    """One implementation of each op; the defaults are the references."""

    # 3x3 and gate convolutions have the signature of `jax.lax.conv_general_dilated`.
    conv: Callable[..., jax.Array] = lax.conv_general_dilated  # of blocks and pyramids
    gate_conv: Callable[..., jax.Array] = lax.conv_general_dilated  # 7x7, from two maps to one
    product: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul  # of a map and a matrix
    mean_and_max: Callable[[jax.Array, int], tuple[jax.Array, jax.Array]] = statistics.mean_and_max
    pool: Callable[[jax.Array], tuple[jax.Array, jax.Array]] = pooling.pool
    # Mean, mean of squares, maximum and minimum over an image's positions, each (B, C). Where set,
    # batch normalisation and channel gate are applied together, as one affine map.
    position_statistics: Callable[[jax.Array], PositionStatistics] | None = None
    affine: Callable[..., jax.Array] = affine.affine
    # How many images of a batch of this shape inference runs at a time in the early stages, whose
    # maps have `features` channels or more.
    chunk: Callable[[Sequence[int], int], int] = full_batch
    bands: int = 1  # of rows that each image is cut into, stacked along the batch axis


REFERENCE = Ops()
