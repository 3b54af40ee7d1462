"""The architecture as anyone would first write it in linen: the opponent of every speed figure.

Layers from flax.linen alone, no thought of any compiler. The parameter tree is the one of
`cbam_flax.models.CBAMResNet` with its defaults, so that either runs on the other's variables.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

STAGES = (64, 128, 128, 256)


class MLP(nn.Module):
    widths: tuple[int, int]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.he_normal()
        x = nn.relu(nn.Dense(self.widths[0], kernel_init=init, dtype=self.dtype, name="dense1")(x))
        return nn.Dense(self.widths[1], kernel_init=init, dtype=self.dtype, name="dense2")(x)


class Channel(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        mlp = MLP((max(channels // 16, 1), channels), self.dtype, name="mlp")
        logits = mlp(jnp.mean(x, axis=(1, 2))) + mlp(jnp.max(x, axis=(1, 2)))
        return x * nn.sigmoid(logits)[:, None, None, :]


class Spatial(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        maps = [jnp.max(x, axis=-1, keepdims=True), jnp.mean(x, axis=-1, keepdims=True)]
        conv = nn.Conv(
            1, (7, 7), kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name="conv"
        )
        return x * nn.sigmoid(conv(jnp.concatenate(maps, axis=-1)))


class CBAM(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Channel(self.dtype, name="channel")(x)
        return Spatial(self.dtype, name="spatial")(x)


class Block(nn.Module):
    features: int
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def conv(x: jax.Array, number: int) -> jax.Array:
            init = nn.initializers.he_normal()
            x = nn.Conv(
                self.features,
                (3, 3),
                use_bias=False,
                kernel_init=init,
                dtype=self.dtype,
                name=f"conv{number}",
            )(x)
            return nn.BatchNorm(
                use_running_average=not self.train,
                momentum=0.9,
                dtype=self.dtype,
                name=f"norm{number}",
            )(x)

        c1 = nn.relu(conv(x, 1))
        return nn.relu(c1 + CBAM(self.dtype, name="cbam")(conv(c1, 2)))


class Pool(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        window = {"window_shape": (2, 2), "strides": (2, 2)}
        both = jnp.concatenate([nn.max_pool(x, **window), nn.avg_pool(x, **window)], axis=-1)
        init = nn.initializers.he_normal()
        conv = nn.Conv(x.shape[-1], (1, 1), kernel_init=init, dtype=self.dtype, name="mix")
        return nn.relu(conv(both))


class Pyramid(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features, init = x.shape[-1], nn.initializers.he_normal()
        branches = [
            nn.relu(
                nn.Conv(
                    features,
                    (3, 3),
                    kernel_dilation=rate,
                    kernel_init=init,
                    dtype=self.dtype,
                    name=f"atrous{number}",
                )(x)
            )
            for number, rate in enumerate((2, 4, 8), start=1)
        ]
        project = nn.Conv(features, (1, 1), kernel_init=init, dtype=self.dtype, name="project")
        return nn.relu(project(jnp.concatenate(branches, axis=-1)))


class PlainModel(nn.Module):
    """`(B, H, W, 1)` to `(B,)` logits; `only` names a stage to run alone, on its own input."""

    dtype: Any = jnp.float32
    only: str = ""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        def run(layer: type[nn.Module], name: str, *args: Any) -> None:
            nonlocal x
            if self.only in ("", name):
                x = layer(*args, dtype=self.dtype, name=name)(x)

        x = x.astype(self.dtype)
        for number, features in enumerate(STAGES, start=1):
            run(Block, f"block{number}", features, train)
            run(Pool, f"pool{number}")
            if number % 2 == 0:
                run(Pyramid, f"context{number // 2}")
        if self.only in ("", "head"):
            init = nn.initializers.he_normal()
            x = x.reshape(x.shape[0], -1)
            x = nn.relu(nn.Dense(256, kernel_init=init, dtype=self.dtype, name="hidden")(x))
            x = nn.Dense(1, kernel_init=init, name="logit")(x)[:, 0]
        return x
