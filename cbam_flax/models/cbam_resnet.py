"""CBAM-ResNet: residual blocks with attention, mixed pooling and atrous pyramids for radiographs.

    B(64) P   B(128) P A   B(128) P   B(256) P A   Flatten Dense(256) ReLU Dense(1)

B is `ResidualCBAMBlock`, P is `MixedPool`, A is `AtrousPyramid`. docs/architecture.md draws every
block and says where the `notebook` preset departs from this.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cbam_flax.models import ops
from cbam_flax.models.aspp import AtrousPyramid
from cbam_flax.models.attention import CBAM, ChannelAttention, SpatialAttention
from cbam_flax.models.layers import BatchNorm, Conv, Layer, Mix
from cbam_flax.models.pooling import MixedPool, avg_pool, max_pool

MIN_SIZE = 28  # pixels; four halvings leave at least 1 x 1

SWITCHES = {
    "preset": ("cbam_resnet", "notebook"),
    "attention": ("none", "se", "channel", "spatial", "cbam"),
    "pooling": ("max", "avg", "mixed"),
    "context": ("none", "aspp"),
    "head": ("flatten", "gap"),
    "spatial_norm": ("none", "batch"),
    "kernel_init": ("auto", "he_normal", "glorot_uniform"),
}
INITIALIZERS = {
    "he_normal": nn.initializers.he_normal(),
    "glorot_uniform": nn.initializers.glorot_uniform(),
}


class Preset(NamedTuple):
    """What a preset fixes beyond the switches; the defaults are the documented architecture."""

    relu_first: bool = True  # a ReLU after a block's first batch normalisation
    conv_bias: bool = False  # in the block's 3x3 convolutions; BN's offset makes one redundant
    momentum: float = 0.9  # of the running batch statistics; this and epsilon as in ResNet
    epsilon: float = 1e-5
    channel_mlp: str = "shared"
    spatial_statistics: tuple[str, str] = ("max", "mean")
    kernel_init: str = "he_normal"


PRESETS = {
    "cbam_resnet": Preset(),
    "notebook": Preset(
        relu_first=False,
        conv_bias=True,
        momentum=0.99,
        epsilon=1e-3,
        channel_mlp="separate",
        spatial_statistics=("mean", "mean"),
        kernel_init="glorot_uniform",
    ),
}


class ResidualCBAMBlock(nn.Module):
    """`c1 = ReLU(BN(Conv))`, `c2 = BN(Conv)`, returns `ReLU(c1 + CBAM(c2))`.

    The skip starts after the FIRST convolution, so it never needs a projection. `relu_first=False`
    leaves out the first ReLU, as the notebook does. `zero_init_last` starts with the second BN's
    scale at zero, so that the block begins as `ReLU(c1)` (Goyal et al. 2017).
    """

    features: int
    conv: Layer = Conv
    norm: Layer = BatchNorm
    channel: Layer | None = ChannelAttention
    spatial: Layer | None = SpatialAttention
    relu_first: bool = True
    zero_init_last: bool = False

    @nn.compact
    def __call__(self, x: ops.Map) -> ops.Map:
        """`(B, H, W, any)` to `(B, H, W, features)`."""
        c1 = self.norm(name="norm1")(self.conv(self.features, (3, 3), name="conv1")(x))
        if self.relu_first:
            c1 = ops.relu(c1)
        scale_init = nn.initializers.zeros if self.zero_init_last else nn.initializers.ones
        gate_follows = self.channel is not None
        norm2 = self.norm(scale_init=scale_init, gate_follows=gate_follows, name="norm2")
        c2 = norm2(self.conv(self.features, (3, 3), name="conv2")(c1))
        return ops.relu(c1 + CBAM(self.channel, self.spatial, name="cbam")(c2))


class CBAMResNet(nn.Module):
    """The classifier. `create_model` makes one from a config; the fields are the config's keys.

    `preset` names the `Preset`; every other field overrides or scales a part of it. `kernel_init`
    initialises the 3x3 convolutions and the head, "auto" as the preset does; the gates and the
    1x1 convolutions always use he_normal. Activations are `dtype`, parameters `param_dtype`;
    logits and batch statistics are never below float32. `remat` recomputes each block in the
    backward pass instead of keeping its maps. Each of the `findings` has its logit. `stage_ops`
    holds the implementation of the ops for each stage: speed, never the result.
    """

    preset: str = "cbam_resnet"
    attention: str = "cbam"
    pooling: str = "mixed"
    context: str = "aspp"
    dilations: Sequence[int] = (2, 4, 8)
    image_level: bool = False
    head: str = "flatten"
    spatial_norm: str = "none"
    width: float = 1.0
    stages: Sequence[int] = (64, 128, 128, 256)
    reduction: int = 16
    hidden: int = 256
    dropout: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False
    zero_init_last_bn: bool = False
    kernel_init: str = "auto"
    channels: int = 1
    findings: int = 1
    stage_ops: Sequence[ops.Ops] = (ops.REFERENCE,) * 4

    def __post_init__(self) -> None:
        for key, allowed in SWITCHES.items():
            if getattr(self, key) not in allowed:
                raise ValueError(
                    f"model.{key} is {getattr(self, key)!r}; it must be one of {allowed}"
                )
        for key in ("width", "reduction", "hidden", "channels", "findings"):
            if not getattr(self, key) > 0:
                raise ValueError(f"model.{key} is {getattr(self, key)!r}; it must be positive")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout is {self.dropout}; it must be in [0, 1)")
        if len(self.stages) != 4 or min(self.stages) < 1:
            raise ValueError(f"model.stages is {self.stages}; it must be four channel counts")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"model.dilations is {self.dilations}; it must be rates of at least 1")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits of the finding, or of each of several.

        Args:
            images: `(B, H, W, channels)`, floating point in [0, 1], H and W at least 28.
            train: use batch statistics and dropout; needs `mutable=["batch_stats"]` and, with
                dropout, the rng "dropout".

        Returns:
            `(B,)` float32; `(B, findings)` where there are several.

        Raises:
            ValueError: images of another rank, channel count or dtype, or too small.
        """
        self.check(images)
        x: ops.Map = images.astype(self.dtype)
        for layer in self.layers(train).values():
            x = layer(x)
        return x

    @nn.nowrap
    def layers(self, train: bool) -> dict[str, Callable[[ops.Map], ops.Map]]:
        """The model's layers by name, in the order they run; call it in a compact method."""
        preset = PRESETS[self.preset]
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        auto = self.kernel_init == "auto"
        init = INITIALIZERS[preset.kernel_init if auto else self.kernel_init]
        conv = partial(Conv, kernel_init=init, **types)
        mix = partial(Mix, kernel_init=INITIALIZERS["he_normal"], **types)
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=preset.momentum,
            epsilon=preset.epsilon,
            **types,
        )
        channel, spatial = self._gates(preset, norm, types)
        block = partial(
            nn.remat(ResidualCBAMBlock) if self.remat else ResidualCBAMBlock,
            conv=partial(conv, use_bias=preset.conv_bias),
            norm=norm,
            channel=channel,
            spatial=spatial,
            relu_first=preset.relu_first,
            zero_init_last=self.zero_init_last_bn,
        )

        layers: dict[str, Callable[[ops.Map], ops.Map]] = {}
        for number, (features, stage) in enumerate(
            zip(self.stages, self.stage_ops, strict=True), start=1
        ):
            features = max(round(features * self.width), 1)
            name = f"block{number}"
            layers[name] = ops.computed_by(stage, block(features, name=name))
            name = f"pool{number}"
            pools = {"max": max_pool, "avg": avg_pool}
            pool = pools.get(self.pooling) or MixedPool(mix, name=name)
            layers[name] = ops.computed_by(stage, pool)
            if self.context == "aspp" and number % 2 == 0:
                name = f"context{number // 2}"
                pyramid = AtrousPyramid(self.dilations, self.image_level, conv, mix, name=name)
                # On maps of the next stage's size.
                layers[name] = ops.computed_by((*self.stage_ops, stage)[number], pyramid)
        layers["head"] = ops.computed_by(ops.REFERENCE, partial(self._head, init, types, train))
        return layers

    @nn.nowrap
    def _head(
        self, init: Callable[..., Any], types: dict[str, Any], train: bool, x: jax.Array
    ) -> jax.Array:
        """`(B, H, W, C)` to logits `(B,)`, or `(B, findings)` of several."""
        dense: Layer = partial(nn.Dense, kernel_init=init, **types)
        x = x.reshape(x.shape[0], -1) if self.head == "flatten" else jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.relu(dense(self.hidden, name="hidden")(x))
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        logits = dense(self.findings, dtype=dtype, name="logit")(x)
        return logits[:, 0] if self.findings == 1 else logits

    @nn.nowrap
    def _gates(
        self, preset: Preset, norm: Layer, types: dict[str, Any]
    ) -> tuple[Layer | None, Layer | None]:
        """The channel and the spatial gate of a block, each None where the block has none."""
        he_normal = INITIALIZERS["he_normal"]
        channel = partial(
            ChannelAttention,
            reduction=self.reduction,
            statistics=("mean",) if self.attention == "se" else ("mean", "max"),
            mlp=preset.channel_mlp,
            dense=partial(nn.Dense, kernel_init=he_normal, **types),
        )
        spatial = partial(
            SpatialAttention,
            statistics=preset.spatial_statistics,
            conv=partial(Conv, kernel_init=he_normal, **types),
            norm=norm if self.spatial_norm == "batch" else None,
        )
        return (
            channel if self.attention in ("se", "channel", "cbam") else None,
            spatial if self.attention in ("spatial", "cbam") else None,
        )

    @nn.nowrap
    def check(self, images: jax.Array) -> None:
        """Raises a ValueError that says what is wrong with images the model cannot take."""
        if images.ndim != 4:
            raise ValueError(
                f"images have shape {images.shape}; it must be (batch, height, width, channels)"
            )
        _, height, width, channels = images.shape
        if channels != self.channels:
            raise ValueError(f"images have {channels} channels; model.channels is {self.channels}")
        if min(height, width) < MIN_SIZE:
            raise ValueError(
                f"images are {height} x {width}; height and width must be at least {MIN_SIZE}"
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images are {images.dtype}; divide them by 255 into float32 in [0, 1]"
            )
