"""The same graph in Keras 3; layers are named by their path in the linen model's tree."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers, ops


def make_model(stages: tuple[int, ...], image_size: int) -> keras.Model:
    """`(B, H, W, 1)` to `(B, 1)` logits."""

    def conv(x: Any, features: int, size: int, name: str, **options: Any) -> Any:
        return layers.Conv2D(features, size, padding="same", name=name, **options)(x)

    def norm(x: Any, name: str) -> Any:
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)

    def block(x: Any, features: int, name: str) -> Any:
        c1 = conv(x, features, 3, f"{name}.conv1", use_bias=False)
        c1 = layers.ReLU()(norm(c1, f"{name}.norm1"))
        x = conv(c1, features, 3, f"{name}.conv2", use_bias=False)
        x = norm(x, f"{name}.norm2")
        mlp = f"{name}.cbam.channel.mlp"
        hidden = layers.Dense(max(features // 16, 1), "relu", name=f"{mlp}.dense1")
        output = layers.Dense(features, name=f"{mlp}.dense2")
        mean, maximum = layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)
        gate = ops.sigmoid(output(hidden(mean)) + output(hidden(maximum)))
        x = x * layers.Reshape((1, 1, features))(gate)
        maps = [ops.max(x, -1, keepdims=True), ops.mean(x, -1, keepdims=True)]
        maps = layers.Concatenate()(maps)
        gate = conv(maps, 1, 7, f"{name}.cbam.spatial.conv", activation="sigmoid")
        return layers.ReLU()(c1 + x * gate)

    x = inputs = layers.Input((image_size, image_size, 1))
    for number, features in enumerate(stages, start=1):
        x = block(x, features, f"block{number}")
        x = layers.Concatenate()([layers.MaxPooling2D(2)(x), layers.AveragePooling2D(2)(x)])
        x = conv(x, features, 1, f"pool{number}.mix", activation="relu")
        if number % 2 == 0:
            name = f"context{number // 2}"
            branches = [
                conv(x, features, 3, f"{name}.atrous{i}", dilation_rate=rate, activation="relu")
                for i, rate in enumerate((2, 4, 8), start=1)
            ]
            x = layers.Concatenate()(branches)
            x = conv(x, features, 1, f"{name}.project", activation="relu")
    x = layers.Dense(256, "relu", name="hidden")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(1, name="logit")(x))


def load(model: keras.Model, variables: Mapping[str, Any]) -> None:
    """Takes over the linen model's `params` and `batch_stats`."""
    names = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
    for layer in model.layers:
        if layer.weights:
            leaf = {}
            for collection in ("params", "batch_stats"):
                tree = variables[collection]
                for key in layer.name.split("."):
                    tree = tree.get(key, {})
                leaf |= tree
            layer.set_weights([leaf[names.get(w.name, w.name)] for w in layer.weights])
