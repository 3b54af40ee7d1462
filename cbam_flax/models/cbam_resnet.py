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

from cbam_flax.models.aspp import AtrousPyramid
from cbam_flax.models.attention import CBAM, AffineNorm, ChannelAttention, Layer, SpatialAttention
from cbam_flax.models.forms import PLAIN, Forms, mean_and_squares, rebanded
from cbam_flax.models.pooling import Mix, MixedPool

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


class Graph(NamedTuple):
    """What a preset fixes, beyond the switches; the defaults are the described architecture."""

    relu_first: bool = True  # a ReLU after a block's first batch normalisation
    conv_bias: bool = False  # in the block's 3x3 convolutions; BN's offset makes one redundant
    momentum: float = 0.9  # of the running batch statistics; with epsilon as ResNet has them
    epsilon: float = 1e-5
    channel_mlp: str = "shared"
    spatial_statistics: tuple[str, str] = ("max", "mean")
    kernel_init: str = "he_normal"


GRAPHS = {
    "cbam_resnet": Graph(),
    "notebook": Graph(
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
    """`c1 = ReLU(BN(Conv))`, `c2 = BN(Conv)`, returns `ReLU(c1 + attention(c2))`.

    The skip starts after the FIRST convolution, so it never needs a projection. `relu_first=False`
    leaves out the first ReLU, as the notebook does. `zero_init_last` starts with the second BN's
    scale at zero, so that the block begins as `ReLU(c1)` (Goyal et al. 2017). `affine_norm` takes
    the place of `norm` where `forms` apply it as an affine map; `fold_norm` leaves the second one
    to the channel gate.
    """

    features: int
    norm: Layer
    conv: Layer = nn.Conv
    attention: Layer | None = CBAM
    relu_first: bool = True
    zero_init_last: bool = False
    affine_norm: Layer | None = None
    fold_norm: bool = False
    forms: Forms = PLAIN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`(B, H, W, any)` to `(B, H, W, features)`."""

        def normalised(x: jax.Array, name: str, **options: Any) -> jax.Array:
            if self.affine_norm is None:
                return self.norm(name=name, **options)(x)
            norm = self.affine_norm(name=name, **options)
            return self.forms.affine(x, *norm(*mean_and_squares(x)))

        c1 = normalised(self.conv(self.features, (3, 3), name="conv1")(x), "norm1")
        if self.relu_first:
            c1 = nn.relu(c1)
        scale = nn.initializers.zeros if self.zero_init_last else nn.initializers.ones
        c2 = self.conv(self.features, (3, 3), name="conv2")(c1)
        if self.fold_norm and self.affine_norm is not None and self.attention is not None:
            norm = self.affine_norm(scale_init=scale, name="norm2")
            return nn.relu(c1 + self.attention(name="cbam")(c2, norm))
        c2 = normalised(c2, "norm2", scale_init=scale)
        if self.attention is not None:
            c2 = self.attention(name="cbam")(c2)
        return nn.relu(c1 + c2)


class CBAMResNet(nn.Module):
    """The classifier. `create_model` makes one from a config; the fields are the config's keys.

    `preset` names the `Graph`, every other field overrides or scales a part of it. `kernel_init`
    starts the 3x3 convolutions and the head, "auto" as the preset does; the gates and the 1x1
    convolutions always start from he_normal. Activations are `dtype`, parameters `param_dtype`;
    logits and batch statistics are never below float32. `remat` recomputes each block in the
    backward pass instead of keeping its maps. `forms` says for each stage how its pieces are
    computed, not what.
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
    forms: Sequence[Forms] = (PLAIN,) * 4

    def __post_init__(self) -> None:
        for key, allowed in SWITCHES.items():
            if getattr(self, key) not in allowed:
                raise ValueError(
                    f"model.{key} is {getattr(self, key)!r}; it must be one of {allowed}"
                )
        for key in ("width", "reduction", "hidden", "channels"):
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
        """Logits of the positive class.

        Args:
            images: `(B, H, W, channels)`, floating point in [0, 1], H and W at least 28.
            train: normalise by the batch and drop out; needs `mutable=["batch_stats"]` and, with
                dropout, the rng "dropout".

        Returns:
            `(B,)` float32.

        Raises:
            ValueError: images of another rank, channel count or dtype, or too small.
        """
        self._check(images)
        x = images.astype(self.dtype)
        # Statistics of the batch, and gates to look at, need all images at once.
        whole = train or self.is_initializing() or self.is_mutable_collection("intermediates")
        fewest = max(round(min(self.stages) * self.width), 1)
        group = x.shape[0] if whole else self.forms[0].group(x.shape, fewest)
        names = list(self._stages(train))
        large = names.index("block4")  # until then the maps of an image are larger than the weights
        x = self._run(names[:large], x, train, group)
        return self._run(names[large:], x, train, x.shape[0])

    @nn.nowrap
    def _run(self, names: Sequence[str], x: jax.Array, train: bool, group: int) -> jax.Array:
        """The stages of these names, on so many images at a time."""
        if group == x.shape[0]:
            stages = self._stages(train)
            for name in names:
                x = stages[name](x)
            return x

        def step(module: "CBAMResNet", _: None, x: jax.Array) -> tuple[None, jax.Array]:
            return None, module._run(names, x, train, group)

        variables = ("params", "batch_stats")
        scan = nn.scan(step, variable_broadcast=variables, split_rngs={"params": False})
        _, groups = scan(self, None, x.reshape(-1, group, *x.shape[1:]))
        return groups.reshape(-1, *groups.shape[2:])

    def _stages(self, train: bool) -> dict[str, Callable[[jax.Array], jax.Array]]:
        """The parts of the model by name, in the order they run; each may also be run alone."""
        graph = GRAPHS[self.preset]
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        auto = self.kernel_init == "auto"
        init = INITIALIZERS[graph.kernel_init if auto else self.kernel_init]
        dense: Layer = partial(nn.Dense, kernel_init=init, **types)
        running: dict[str, Any] = {"use_running_average": not train, "momentum": graph.momentum}
        norm = partial(nn.BatchNorm, epsilon=graph.epsilon, **running, **types)
        affine_norm = partial(AffineNorm, epsilon=graph.epsilon, **running, **types)

        def conv3x3(forms: Forms) -> Layer:
            return partial(nn.Conv, kernel_init=init, conv_general_dilated=forms.conv, **types)

        def mix(forms: Forms) -> Layer:
            he_normal = INITIALIZERS["he_normal"]
            return partial(Mix, kernel_init=he_normal, product=forms.product, **types)

        def block(features: int, forms: Forms) -> Layer:
            return partial(
                nn.remat(ResidualCBAMBlock) if self.remat else ResidualCBAMBlock,
                max(round(features * self.width), 1),
                conv=partial(conv3x3(forms), use_bias=graph.conv_bias),
                norm=norm,
                attention=self._attention(graph, norm, types, forms),
                relu_first=graph.relu_first,
                zero_init_last=self.zero_init_last_bn,
                affine_norm=None if forms.moments is None else affine_norm,
                fold_norm=self.attention not in ("none", "spatial"),
                forms=forms,
            )

        def pool(forms: Forms) -> Layer:
            kinds: dict[str, Layer] = {
                "mixed": partial(MixedPool, mix=mix(forms), forms=forms),
                "max": lambda name: lambda x: forms.pool(x)[0],
                "avg": lambda name: lambda x: forms.pool(x)[1],
            }
            return kinds[self.pooling]

        def pyramid(forms: Forms) -> Layer:
            return partial(
                AtrousPyramid,
                dilations=self.dilations,
                image_level=self.image_level,
                conv=conv3x3(forms),
                mix=mix(forms),
            )

        def head(x: jax.Array) -> jax.Array:
            x = x.reshape(x.shape[0], -1) if self.head == "flatten" else jnp.mean(x, axis=(1, 2))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(dense(self.hidden, name="hidden")(x))
            logits = dense(1, dtype=jnp.promote_types(self.dtype, jnp.float32), name="logit")(x)
            return logits[:, 0]

        stages = zip(self.stages, self.forms, (*self.forms[1:], self.forms[-1]), strict=True)
        layers: dict[str, tuple[Layer, Forms]] = {}
        for number, (features, forms, later) in enumerate(stages, start=1):
            layers[f"block{number}"] = block(features, forms), forms
            layers[f"pool{number}"] = pool(forms), forms
            if self.context == "aspp" and number % 2 == 0:
                layers[f"context{number // 2}"] = pyramid(later), later
        layers["head"] = lambda name: head, PLAIN

        # A submodule belongs to whichever compact call makes it, so each is made when it runs.
        def run(name: str, layer: Layer, before: int, after: int, x: jax.Array) -> jax.Array:
            return layer(name=name)(rebanded(x, before, after))

        runs: dict[str, Callable[[jax.Array], jax.Array]] = {}
        bands = 1
        for name, (layer, forms) in layers.items():
            runs[name] = partial(run, name, layer, bands, forms.bands)
            bands = forms.bands
        return runs

    def _attention(
        self, graph: Graph, norm: Layer, types: dict[str, Any], forms: Forms
    ) -> Layer | None:
        """What `attention` names: a CBAM with both gates or one of them, or nothing."""
        if self.attention == "none":
            return None
        he_normal = INITIALIZERS["he_normal"]
        channel = partial(
            ChannelAttention,
            reduction=self.reduction,
            statistics=("mean",) if self.attention == "se" else ("mean", "max"),
            mlp=graph.channel_mlp,
            dense=partial(nn.Dense, kernel_init=he_normal, **types),
            forms=forms,
        )
        spatial = partial(
            SpatialAttention,
            statistics=graph.spatial_statistics,
            conv=partial(nn.Conv, kernel_init=he_normal, **types),
            norm=norm if self.spatial_norm == "batch" else None,
            forms=forms,
        )
        return partial(
            CBAM,
            channel=None if self.attention == "spatial" else channel,
            spatial=spatial if self.attention in ("spatial", "cbam") else None,
        )

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
