"""The attention gates of CBAM (Woo et al. 2018, "CBAM: Convolutional Block Attention Module").

A gate is sigmoid(logits) in (0, 1), multiplied onto the module's input. Maps are `(B, H, W, C)`.
Each module sows its gate as `gate` into the collection "intermediates", which costs nothing unless
the caller passes `mutable=["intermediates"]`.

`conv`, `dense` and `norm` are layer classes; `functools.partial` has already set everything but
their size (dtype, initialiser, train or not).
"""

from collections.abc import Sequence

import flax.linen as nn

from cbam_flax.models import ops
from cbam_flax.models.layers import MLP, Conv, Layer


class ChannelAttention(nn.Module):
    """Gates every channel by its mean and its maximum over the map (CBAM, equation 2).

    `mlp="shared"`: one MLP `C -> C/reduction -> C` reads both statistics, as in the paper; with
    `statistics=("mean",)` alone it is squeeze-and-excitation (Hu et al. 2018).
    `mlp="separate"`: as in the notebook, one MLP `C -> C -> C/reduction -> C` per statistic, with a
    ReLU after every layer, even the last, so that no gate is below 1/2.
    """

    reduction: int = 16
    statistics: Sequence[str] = ("mean", "max")
    mlp: str = "shared"
    dense: Layer = nn.Dense

    @nn.compact
    def __call__(self, x: ops.Map) -> ops.Map:
        """Returns `(B, H, W, C)`: the input times its gate `(B, 1, 1, C)`."""
        channels = x.shape[-1]
        hidden = max(channels // self.reduction, 1)
        if self.mlp == "shared":
            shared = MLP((hidden, channels), dense=self.dense, name="mlp")
            mlps = {statistic: shared for statistic in self.statistics}
        else:
            widths = (channels, hidden, channels)
            mlps = {
                statistic: MLP(widths, relu_last=True, dense=self.dense, name=f"{statistic}_mlp")
                for statistic in self.statistics
            }
        pooled = ops.over_positions(x, self.statistics)  # each (B, C)
        logits = sum(mlps[name](pooled[name]) for name in self.statistics)
        gate = nn.sigmoid(logits)[:, None, None, :]
        self.sow("intermediates", "gate", gate)
        return x * gate


class SpatialAttention(nn.Module):
    """Gates every position by two statistics over its channels (CBAM, equation 3).

    The two maps, in this order, go through a 7x7 convolution with one filter. `norm` puts a batch
    normalisation before the sigmoid, as in the authors' code (the paper does not mention it); it
    has its own offset, so the convolution has a bias only when there is no `norm`.
    """

    statistics: Sequence[str] = ("max", "mean")
    conv: Layer = Conv
    norm: Layer | None = None

    @nn.compact
    def __call__(self, x: ops.Map) -> ops.Map:
        """Returns `(B, H, W, C)`: the input times its gate `(B, H, W, 1)`."""
        maps = ops.over_channels(x, self.statistics)  # (B, H, W, 2)
        logits = self.conv(1, (7, 7), use_bias=self.norm is None, name="conv")(maps)
        if self.norm is not None:
            logits = self.norm(name="norm")(logits)
        gate = ops.sigmoid(logits)
        self.sow("intermediates", "gate", gate)
        return x * gate


class CBAM(nn.Module):
    """Channel attention, then spatial attention; either may be left out."""

    channel: Layer | None = ChannelAttention
    spatial: Layer | None = SpatialAttention

    @nn.compact
    def __call__(self, x: ops.Map) -> ops.Map:
        """`(B, H, W, C)` to the same."""
        if self.channel is not None:
            x = self.channel(name="channel")(x)
        if self.spatial is not None:
            x = self.spatial(name="spatial")(x)
        return x
