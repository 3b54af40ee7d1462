"""Atrous spatial pyramid pooling: context at several scales (Chen et al. 2017, DeepLab v3)."""

from collections.abc import Sequence

import flax.linen as nn

from cbam_flax.models import ops
from cbam_flax.models.layers import Conv, Layer, Mix


class AtrousPyramid(nn.Module):
    """3x3 convolutions at several rates, concatenated, projected: `(B, H, W, C)` to the same shape.

    A ReLU follows every convolution. `image_level` adds DeepLab v3's fifth branch: the map's mean
    through a 1x1 convolution, spread over all positions. `conv` is the layer for the 3x3
    convolutions, `mix` for the 1x1 ones.
    """

    dilations: Sequence[int] = (2, 4, 8)
    image_level: bool = False
    conv: Layer = Conv
    mix: Layer = Mix

    @nn.compact
    def __call__(self, x: ops.Map) -> ops.Map:
        features = x.shape[-1]
        branches = [
            ops.relu(self.conv(features, (3, 3), rate=rate, name=f"atrous{number}")(x))
            for number, rate in enumerate(self.dilations, start=1)
        ]
        if self.image_level:
            level = ops.relu(self.mix(features, name="image_level")([ops.mean_image(x)]))
            branches.append(ops.spread(level, like=x))
        return ops.relu(self.mix(features, name="project")(branches))
