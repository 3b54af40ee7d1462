"""The attention gates of CBAM (Woo et al. 2018, "CBAM: Convolutional Block Attention Module").

A gate is sigmoid(logits) in (0, 1), multiplied onto its input. All maps are `(B, H, W, C)`. Each
module sows its gate as `gate` into the collection "intermediates", which costs nothing unless that
collection is asked for with `mutable=["intermediates"]`.

`conv`, `dense` and `norm` are linen layer classes with everything but their size filled in already
by `functools.partial` (dtype, initialiser, train or not), so that this is decided in one place.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Layer = Callable[..., Any]


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


_STATISTICS: dict[str, Callable[..., jax.Array]] = {"mean": jnp.mean, "max": peak}


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

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
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
        pixels = x.reshape(x.shape[0], -1, channels)
        logits = sum(mlps[name](_STATISTICS[name](pixels, 1)) for name in self.statistics)
        gate = nn.sigmoid(logits)[:, None, None, :]
        self.sow("intermediates", "gate", gate)
        return x * gate


class SpatialAttention(nn.Module):
    """Gates every position by two statistics over its channels (CBAM, equation 3).

    The two maps, in this order, go through a 7x7 convolution with one filter. `norm` puts a batch
    normalisation before the sigmoid, which the authors' code has and the paper does not mention; it
    brings its own offset, so the convolution has a bias exactly when there is no `norm`.
    """

    statistics: Sequence[str] = ("max", "mean")
    conv: Layer = nn.Conv
    norm: Layer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `(B, H, W, C)`: the input times its gate `(B, H, W, 1)`."""
        maps = jnp.stack([_STATISTICS[name](x, -1) for name in self.statistics], axis=-1)
        logits = self.conv(1, (7, 7), use_bias=self.norm is None, name="conv")(maps)
        if self.norm is not None:
            logits = self.norm(name="norm")(logits)
        gate = nn.sigmoid(logits)
        self.sow("intermediates", "gate", gate)
        return x * gate


class CBAM(nn.Module):
    """Channel attention, then spatial attention; either may be left out."""

    channel: Layer | None = ChannelAttention
    spatial: Layer | None = SpatialAttention

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.channel is not None:
            x = self.channel(name="channel")(x)
        if self.spatial is not None:
            x = self.spatial(name="spatial")(x)
        return x
