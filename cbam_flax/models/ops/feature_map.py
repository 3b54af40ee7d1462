"""A feature map that carries the ops to compute with and knows how its array is stored.

A model's modules say WHAT is computed, with the functions below. Given plain arrays these compute
with the reference ops and return arrays. Given a `FeatureMap` they use the ops that it carries and
return FeatureMaps:

- Its images may be cut into bands of rows, stacked along the batch axis.
- A scale and an offset may be pending. Batch normalisation and the channel gate only change these;
  they are applied once, when the map's values are first needed.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from cbam_flax.models.ops.contract import REFERENCE, Ops, PositionStatistics
from cbam_flax.models.ops.convolution.reference import DIMENSIONS


def split_rows(x: jax.Array, before: int, after: int) -> jax.Array:
    """Changes the number of bands of rows per image from `before` to `after`.

    `(B before, H / before, W, C)` to `(B after, H / after, W, C)`.
    """
    batch, height, width, channels = x.shape
    return x.reshape(batch * after // before, height * before // after, width, channels)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("raw", "scale", "offset", "statistics"),
    meta_fields=("ops",),
)
@dataclasses.dataclass(frozen=True)
class FeatureMap:
    """Maps `(B, H, W, C)` with the values `raw * scale + offset`.

    Attributes:
        raw: `(B bands, H / bands, W, C)`.
        ops: the implementation of each op.
        scale, offset: `(C,)` or `(B, C)`, pending; or None.
        statistics: of `raw` over each image's positions, where the scale was found from them.
    """

    raw: jax.Array
    ops: Ops
    scale: jax.Array | None = None
    offset: jax.Array | None = None
    statistics: PositionStatistics | None = None

    @functools.cached_property
    def pixels(self) -> jax.Array:
        """The values, of the shape of `raw`; cached, so that it is computed once."""
        if self.scale is None:
            return self.raw
        return self.ops.affine(self.raw, self.scale, self.offset)

    @property
    def array(self) -> jax.Array:
        """The values as `(B, H, W, C)`."""
        return split_rows(self.pixels, self.ops.bands, 1)

    def __jax_array__(self) -> jax.Array:
        """Lets jax.numpy take it, for those who capture what a layer returns."""
        return self.array

    @property
    def shape(self) -> tuple[int, ...]:
        batch, height, width, channels = self.raw.shape
        return batch // self.ops.bands, height * self.ops.bands, width, channels

    @property
    def dtype(self) -> jnp.dtype:
        return self.raw.dtype

    def astype(self, dtype: jnp.dtype) -> "FeatureMap":
        return self if self.dtype == dtype else _like(self, self.pixels.astype(dtype))

    def __add__(self, other: "FeatureMap | jax.Array") -> "FeatureMap":
        """Adds another map, or a number per channel `(C,)`."""
        return _like(self, self.pixels + values(other))

    def __mul__(self, gate: jax.Array) -> "FeatureMap":
        """Applies a channel gate `(B, 1, 1, C)` or a spatial gate `(B, H, W, 1)`."""
        bands = self.ops.bands
        if gate.shape[1:3] != (1, 1):
            return _like(self, self.pixels * split_rows(gate, 1, bands))
        if self.scale is None or self.offset is None:
            return _like(self, self.pixels * jnp.repeat(gate, bands, axis=0))
        gate = gate[:, 0, 0]
        return dataclasses.replace(
            self, scale=self.scale * gate, offset=self.offset * gate, statistics=None
        )


# A plain array or a FeatureMap; mypy cannot follow a union through linen's modules.
Map: TypeAlias = Any


def values(x: Map) -> jax.Array:
    """A map's values, in the shape that its ops compute with."""
    return x.pixels if isinstance(x, FeatureMap) else x


def array(x: Map) -> jax.Array:
    """The map as a plain array `(B, H, W, C)`."""
    return x.array if isinstance(x, FeatureMap) else x


def _like(x: Map, result: jax.Array) -> Map:
    return FeatureMap(result, x.ops) if isinstance(x, FeatureMap) else result


def _ops(x: Map) -> Ops:
    return x.ops if isinstance(x, FeatureMap) else REFERENCE


def computed_by(ops: Ops, layer: Callable[[Map], Map]) -> Callable[[Map], Map]:
    """The layer, with these ops for its input and everything computed from it."""

    def run(x: Map) -> Map:
        if _ops(x) is not ops:
            x = array(x)
            x = x if ops is REFERENCE else FeatureMap(split_rows(x, 1, ops.bands), ops)
        return layer(x)

    return run


def convolve(x: Map, kernel: jax.Array, rate: int = 1) -> Map:
    """Stride 1, padding "SAME", at a rate: `(B, H, W, C)` to `(B, H, W, F)`."""
    rates = (rate, rate)
    return _like(
        x,
        _ops(x).conv(
            values(x), kernel, (1, 1), "SAME", rhs_dilation=rates, dimension_numbers=DIMENSIONS
        ),
    )


def matmul(x: Map, matrix: jax.Array) -> Map:
    """`x @ matrix` over the channels: `(B, H, W, C)` to `(B, H, W, F)`."""
    return _like(x, _ops(x).product(values(x), matrix))


def relu(x: Map) -> Map:
    """`max(x, 0)`."""
    return _like(x, nn.relu(values(x)))


def sigmoid(x: Map) -> jax.Array:
    """`1 / (1 + exp(-x))`, a plain array `(B, H, W, C)`."""
    return nn.sigmoid(array(x))


def pool(x: Map) -> tuple[Map, Map]:
    """Maximum and mean of every 2x2 window, each `(B, H // 2, W // 2, C)`."""
    maximum, mean = _ops(x).pool(values(x))
    return _like(x, maximum), _like(x, mean)


def mean_image(x: Map) -> jax.Array:
    """The mean over all positions, a plain array `(B, 1, 1, C)`."""
    return jnp.mean(array(x), axis=(1, 2), keepdims=True)


def spread(x: jax.Array, like: Map) -> Map:
    """`(B, 1, 1, C)` at every position, stored like the map `like`: `(B, H, W, C)`."""
    shape = values(like).shape
    return _like(like, jnp.broadcast_to(jnp.repeat(x, shape[0] // x.shape[0], axis=0), shape))


def over_positions(x: Map, names: Sequence[str]) -> dict[str, jax.Array]:
    """The named statistics ("mean", "max") over the positions of each image: `(B, C)`."""
    if isinstance(x, FeatureMap) and x.statistics is not None:
        assert x.scale is not None  # set together with the statistics
        assert x.offset is not None
        mean, _, high, low = x.statistics
        extreme = jnp.where(x.scale >= 0, high, low)
        return {"mean": mean * x.scale + x.offset, "max": extreme * x.scale + x.offset}
    return _statistics(values(x).reshape(x.shape[0], -1, x.shape[-1]), 1, names, _ops(x))


def over_channels(x: Map, names: Sequence[str]) -> Map:
    """The named statistics ("mean", "max") over the channels, concatenated: `(B, H, W, n)`."""
    found = _statistics(values(x), -1, names, _ops(x))
    maps = jnp.stack([found[name] for name in names], axis=-1)
    if not isinstance(x, FeatureMap):
        return maps
    return FeatureMap(split_rows(maps, x.ops.bands, 1), Ops(conv=x.ops.gate_conv))


def _statistics(x: jax.Array, axis: int, names: Sequence[str], ops: Ops) -> dict[str, jax.Array]:
    if "max" not in names:
        return {"mean": jnp.mean(x, axis)}
    mean, maximum = ops.mean_and_max(x, axis)
    return {"mean": mean, "max": maximum}
