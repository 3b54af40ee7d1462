"""The atrous spatial pyramid: one map seen at several scales (Chen et al. 2017, DeepLab v3)."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cbam_flax.models.pooling import Mix


class AtrousPyramid(nn.Module):
    """3x3 convolutions at several rates, concatenated, projected: `(B, H, W, C)` to the same shape.

    A ReLU follows every convolution. `image_level` adds DeepLab v3's fifth branch: the map's mean
    through a 1x1 convolution, spread over all positions. `conv` is the layer for the 3x3
    convolutions, `mix` for the 1x1 ones.
    """

    dilations: Sequence[int] = (2, 4, 8)
    image_level: bool = False
    conv: Callable[..., Any] = nn.Conv
    mix: Callable[..., Any] = Mix

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        branches = [
            nn.relu(self.conv(features, (3, 3), kernel_dilation=rate, name=f"atrous{number}")(x))
            for number, rate in enumerate(self.dilations, start=1)
        ]
        if self.image_level:
            mean = jnp.mean(x, axis=(1, 2), keepdims=True)
            level = nn.relu(self.mix(features, name="image_level")([mean]))
            branches.append(jnp.broadcast_to(level, x.shape))
        return nn.relu(self.mix(features, name="project")(branches))
