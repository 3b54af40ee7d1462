"""CBAM-ResNet: residual blocks with attention, mixed pooling and atrous pyramids for radiographs.

    B(64) P   B(128) P A   B(128) P   B(256) P A   Flatten Dense(256) ReLU Dense(1)

B is `ResidualCBAMBlock`, P is `MixedPool`, A is `AtrousPyramid`. docs/architecture.md draws every
block and says where the `notebook` preset departs from this.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cbam_flax.models.aspp import AtrousPyramid
from cbam_flax.models.attention import CBAM, ChannelAttention, Layer, SpatialAttention
from cbam_flax.models.pooling import MixedPool, max_pool, mean_pool

MIN_SIZE = 28
SWITCHES = {
    "preset": ("cbam_resnet", "notebook"),
    "attention": ("none", "se", "channel", "spatial", "cbam"),
    "pooling": ("max", "avg", "mixed"),
    "context": ("none", "aspp"),
    "head": ("flatten", "gap"),
    "spatial_norm": ("none", "batch"),
    "kernel_init": (None, "he_normal", "glorot_uniform"),
}
INITIALIZERS = {
    "he_normal": nn.initializers.he_normal(),
    "glorot_uniform": nn.initializers.glorot_uniform(),
}


class ResidualCBAMBlock(nn.Module):
    """`c1 = ReLU(BN(Conv))`, `c2 = BN(Conv)`, returns `ReLU(c1 + attention(c2))`.

    The skip starts after the FIRST convolution, so it never needs a projection. `relu_first=False`
    leaves out the first ReLU, as the notebook does. `zero_init_last` starts with the second BN's
    scale at zero, so that the block begins as `ReLU(c1)` (Goyal et al. 2017).
    """

    features: int
    norm: Layer
    conv: Layer = nn.Conv
    attention: Layer | None = CBAM
    relu_first: bool = True
    zero_init_last: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`(B, H, W, any)` to `(B, H, W, features)`."""
        c1 = self.norm(name="norm1")(self.conv(self.features, (3, 3), name="conv1")(x))
        if self.relu_first:
            c1 = nn.relu(c1)
        scale = nn.initializers.zeros if self.zero_init_last else nn.initializers.ones
        c2 = self.conv(self.features, (3, 3), name="conv2")(c1)
        c2 = self.norm(scale_init=scale, name="norm2")(c2)
        if self.attention is not None:
            c2 = self.attention(name="cbam")(c2)
        return nn.relu(c1 + c2)


class CBAMResNet(nn.Module):
    """The classifier. `create_model` makes one from a config; the fields are the config's keys.

    `preset` decides what the switches cannot say: which of the two graphs is built (biases, batch
    normalisation constants, first ReLU, form of the gates). `kernel_init` is for the 3x3
    convolutions and the head, None the preset's own; gates and 1x1 convolutions always start from
    he_normal. Convolutions compute in `dtype`, the rest of the numbers is `param_dtype`; logits and
    batch statistics are float32 at least.
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
    kernel_init: str | None = None
    channels: int = 1

    def __post_init__(self) -> None:
        for switch, allowed in SWITCHES.items():
            value = getattr(self, switch)
            if value not in allowed:
                raise ValueError(f"model.{switch} is {value!r}; it must be one of {allowed}")
        if len(self.stages) != 4:
            raise ValueError(f"model.stages is {self.stages}; it must be four channel counts")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits of the positive class.

        Args:
            images: `(B, H, W, channels)`, floating point in [0, 1], H and W at least 28.
            train: normalise by the batch and drop out; needs `mutable=["batch_stats"]` and, with
                dropout, the rng "dropout".

        Returns:
            `(B,)` float32.

        Raises:
            ValueError: images of another rank, channel count, dtype, or too small.
        """
        self._check(images)
        notebook = self.preset == "notebook"
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = self.kernel_init or ("glorot_uniform" if notebook else "he_normal")
        wide = {**types, "kernel_init": INITIALIZERS[init]}
        thin = {**types, "kernel_init": INITIALIZERS["he_normal"]}
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.99 if notebook else 0.9,
            epsilon=1e-3 if notebook else 1e-5,
            **types,
        )
        channel = partial(
            ChannelAttention,
            reduction=self.reduction,
            statistics=("mean",) if self.attention == "se" else ("mean", "max"),
            mlp="separate" if notebook else "shared",
            dense=partial(nn.Dense, **thin),
        )
        spatial = partial(
            SpatialAttention,
            statistics=("mean", "mean") if notebook else ("max", "mean"),
            conv=partial(nn.Conv, **thin),
            norm=norm if self.spatial_norm == "batch" else None,
        )
        cbam = partial(
            CBAM,
            channel=channel if self.attention in ("se", "channel", "cbam") else None,
            spatial=spatial if self.attention in ("spatial", "cbam") else None,
        )
        block = partial(
            nn.remat(ResidualCBAMBlock) if self.remat else ResidualCBAMBlock,
            # A batch normalisation follows, whose offset makes a bias redundant.
            conv=partial(nn.Conv, use_bias=notebook, **wide),
            norm=norm,
            attention=None if self.attention == "none" else cbam,
            relu_first=not notebook,
            zero_init_last=self.zero_init_last_bn,
        )
        pool = partial(MixedPool, conv=partial(nn.Conv, **thin))
        pyramid = partial(
            AtrousPyramid,
            dilations=self.dilations,
            image_level=self.image_level,
            conv=partial(nn.Conv, **wide),
            mix=partial(nn.Conv, **thin),
        )

        x = images.astype(self.dtype)
        for number, features in enumerate(self.stages, start=1):
            x = block(max(round(features * self.width), 1), name=f"block{number}")(x)
            if self.pooling == "mixed":
                x = pool(name=f"pool{number}")(x)
            else:
                x = max_pool(x) if self.pooling == "max" else mean_pool(x)
            if self.context == "aspp" and number % 2 == 0:
                x = pyramid(name=f"context{number // 2}")(x)
        x = x.reshape(x.shape[0], -1) if self.head == "flatten" else jnp.mean(x, axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.relu(nn.Dense(self.hidden, name="hidden", **wide)(x))
        wide["dtype"] = jnp.promote_types(self.dtype, jnp.float32)
        return nn.Dense(1, name="logit", **wide)(x)[:, 0]

    def _check(self, images: jax.Array) -> None:
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
