"""The original Keras notebook's weights as variables of the `notebook` preset."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict


def _layers() -> dict[str, tuple[str, ...]]:
    """Keras layer, numbered per type in the order of construction, to its path in our variables."""
    order: dict[str, list[tuple[str, ...]]] = {"conv2d": [], "bn": [], "dense": []}
    for number in range(1, 5):
        block = f"block{number}"
        order["conv2d"] += [(block, "conv1"), (block, "conv2"), (block, "cbam", "spatial", "conv")]
        order["bn"] += [(block, "norm1"), (block, "norm2")]
        order["dense"] += [
            (block, "cbam", "channel", f"{statistic}_mlp", f"dense{layer}")
            for statistic in ("mean", "max")
            for layer in (1, 2, 3)
        ]
        order["conv2d"].append((f"pool{number}", "mix"))
        if number % 2 == 0:
            context = f"context{number // 2}"
            order["conv2d"] += [
                (context, layer) for layer in ("atrous1", "atrous2", "atrous3", "project")
            ]
    order["dense"] += [("hidden",), ("logit",)]
    return {
        f"{kind}_{index}": path for kind, paths in order.items() for index, path in enumerate(paths)
    }


LAYERS = _layers()
VARIABLES = {
    "kernel": ("params", "kernel"),
    "bias": ("params", "bias"),
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}


def variables_from_keras(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`{"conv2d_0/kernel": array, "bn_0/gamma": array, ...}` to `{"params", "batch_stats"}`."""
    flat = {}
    for name, array in weights.items():
        layer, variable = name.split("/")
        collection, leaf = VARIABLES[variable]
        flat[(collection, *LAYERS[layer], leaf)] = np.asarray(array)
    return unflatten_dict(flat)
