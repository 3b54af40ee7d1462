"""The atrous spatial pyramid: one map seen at several scales (Chen et al. 2017, DeepLab v3)."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class AtrousPyramid(nn.Module):
    """3x3 convolutions at several rates, concatenated, projected: `(B, H, W, C)` to the same shape.

    A ReLU follows every convolution. `image_level` adds DeepLab v3's fifth branch: the map's mean
    through a 1x1 convolution, spread over all positions. `mix` is the layer for the 1x1
    convolutions, `conv` (by default the same) for the 3x3 ones.
    """

    dilations: Sequence[int] = (2, 4, 8)
    image_level: bool = False
    conv: Callable[..., Any] = nn.Conv
    mix: Callable[..., Any] = nn.Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        branches = [
            self.conv(features, (3, 3), kernel_dilation=rate, name=f"atrous{number}")(x)
            for number, rate in enumerate(self.dilations, start=1)
        ]
        if self.image_level:
            mean = jnp.mean(x, axis=(1, 2), keepdims=True)
            level = self.mix(features, (1, 1), name="image_level")(mean)
            branches.append(jnp.broadcast_to(level, x.shape))
        pyramid = nn.relu(jnp.concatenate(branches, axis=-1))
        return nn.relu(self.mix(features, (1, 1), name="project")(pyramid))
