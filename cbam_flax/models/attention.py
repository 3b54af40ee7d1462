"""The attention gates of CBAM (Woo et al. 2018, "CBAM: Convolutional Block Attention Module").

A gate is sigmoid(logits) in (0, 1), multiplied onto its input. All maps are `(B, H, W, C)`. Each
module sows its gate as `gate` into the collection "intermediates", which costs nothing unless that
collection is asked for with `mutable=["intermediates"]`.

`conv`, `dense` and `norm` are linen layer classes with everything but their size filled in already
by `functools.partial` (dtype, initialiser, train or not), so that this is decided in one place.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cbam_flax.models.forms import PLAIN, Forms, rebanded

Layer = Callable[..., Any]


def _statistics(
    x: jax.Array, axis: int, names: Sequence[str], forms: Forms
) -> dict[str, jax.Array]:
    """Those of "mean" and "max" that are named, over one axis."""
    if "max" not in names:
        return {"mean": jnp.mean(x, axis)}
    mean, maximum = forms.mean_and_max(x, axis)
    return {"mean": mean, "max": maximum}


class MLP(nn.Module):
    """Dense layers of these widths on the last axis; ReLU between, and after if `relu_last`."""

    widths: Sequence[int]
    relu_last: bool = False
    dense: Layer = nn.Dense

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number, width in enumerate(self.widths, start=1):
            x = self.dense(width, name=f"dense{number}")(x)
            if number < len(self.widths) or self.relu_last:
                x = nn.relu(x)
        return x


class AffineNorm(nn.Module):
    """`nn.BatchNorm`, its variables and its fields, as the scale and offset that it amounts to."""

    use_running_average: bool
    momentum: float
    epsilon: float
    scale_init: Callable[..., Any] = nn.initializers.ones
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, mean: jax.Array, squares: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and mean of squares of the batch, `(C,)`, to scale and offset, `(C,)`."""
        shape = mean.shape
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            var = jnp.maximum(squares - jnp.square(mean), 0)
            if not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * new
        scale = scale * jax.lax.rsqrt(var + self.epsilon)
        return scale, bias - mean * scale


class ChannelAttention(nn.Module):
    """Gates every channel by its mean and its maximum over the map (CBAM, equation 2).

    `mlp="shared"`: one MLP `C -> C/reduction -> C` reads both statistics, as in the paper; with
    `statistics=("mean",)` alone it is squeeze-and-excitation (Hu et al. 2018).
    `mlp="separate"`: the notebook's form, an MLP `C -> C -> C/reduction -> C` for each statistic
    with a ReLU after every layer, also the last, so that no gate is below 1/2.
    """

    reduction: int = 16
    statistics: Sequence[str] = ("mean", "max")
    mlp: str = "shared"
    dense: Layer = nn.Dense
    forms: Forms = PLAIN

    @nn.compact
    def __call__(self, x: jax.Array, norm: AffineNorm | None = None) -> jax.Array:
        """Returns `(B, H, W, C)`: the input times its gate `(B, 1, 1, C)`.

        With `norm` the input is normalised first, in the same pass over the map.
        """
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
        if norm is None:
            pixels = x.reshape(x.shape[0], -1, channels)
            found = _statistics(pixels, 1, self.statistics, self.forms)
        else:
            assert self.forms.moments is not None  # or there would be no such norm
            mean, squares, high, low = self.forms.moments(x)
            scale, offset = norm(mean.mean(0), squares.mean(0))
            found = {"mean": mean * scale + offset}
            found["max"] = jnp.where(scale >= 0, high, low) * scale + offset
        logits = sum(mlps[name](found[name]) for name in self.statistics)
        gate = nn.sigmoid(logits)
        self.sow("intermediates", "gate", gate[:, None, None, :])
        if norm is None:
            return x * gate[:, None, None, :]
        return self.forms.affine(x, scale * gate, offset * gate)


class SpatialAttention(nn.Module):
    """Gates every position by two statistics over its channels (CBAM, equation 3).

    The two maps, in this order, go through a 7x7 convolution with one filter. `norm` puts a batch
    normalisation before the sigmoid, which the authors' code has and the paper does not mention; it
    brings its own offset, so the convolution has a bias exactly when there is no `norm`.
    """

    statistics: Sequence[str] = ("max", "mean")
    conv: Layer = nn.Conv
    norm: Layer | None = None
    forms: Forms = PLAIN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `(B, H, W, C)`: the input times its gate `(B, H, W, 1)`."""
        found = _statistics(x, -1, self.statistics, self.forms)
        maps = jnp.stack([found[name] for name in self.statistics], axis=-1)
        maps = rebanded(maps, self.forms.bands, 1)
        conv = self.conv(
            1,
            (7, 7),
            use_bias=self.norm is None,
            conv_general_dilated=self.forms.gate_conv,
            name="conv",
        )
        logits = conv(maps)
        if self.norm is not None:
            logits = self.norm(name="norm")(logits)
        gate = nn.sigmoid(logits)
        self.sow("intermediates", "gate", gate)
        return x * rebanded(gate, 1, self.forms.bands)


class CBAM(nn.Module):
    """Channel attention, then spatial attention; either may be left out."""

    channel: Layer | None = ChannelAttention
    spatial: Layer | None = SpatialAttention

    @nn.compact
    def __call__(self, x: jax.Array, norm: AffineNorm | None = None) -> jax.Array:
        """`(B, H, W, C)` to the same; `norm` as in `ChannelAttention`."""
        if self.channel is not None:
            x = self.channel(name="channel")(x, norm)
        if self.spatial is not None:
            x = self.spatial(name="spatial")(x)
        return x
