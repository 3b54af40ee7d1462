"""Downsampling by two: maximum, mean, or a learnt mixture of both.

All take `(B, H, W, C)` to `(B, H // 2, W // 2, C)`, windows of 2x2 with stride 2.
"""

import flax.linen as nn

from cbam_flax.models import ops
from cbam_flax.models.layers import Layer, Mix


def max_pool(x: ops.Map) -> ops.Map:
    """The maximum of every window."""
    return ops.pool(x)[0]


def avg_pool(x: ops.Map) -> ops.Map:
    """The mean of every window."""
    return ops.pool(x)[1]


class MixedPool(nn.Module):
    """Maximum and mean, mixed back to the input's channels: `ReLU(Conv1x1([max, mean]))`.

    Lee et al. 2016, "Generalizing Pooling Functions in Convolutional Neural Networks", propose a
    gated variant.
    """

    mix: Layer = Mix

    @nn.compact
    def __call__(self, x: ops.Map) -> ops.Map:
        return ops.relu(self.mix(x.shape[-1], name="mix")(ops.pool(x)))
