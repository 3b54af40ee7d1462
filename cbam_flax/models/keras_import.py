"""The original Keras notebook's weights as variables of the `notebook` preset.

Reads the HDF5 file that the notebook wrote, with `model.save("Model.h5")` or `save_weights`, and
writes one .npz with the model's config and every array under its Flax path. No pickle, and no code
that a Keras file may contain, is read.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cbam_flax.models import CBAMResNet, create_model
from data_prep import cli

EXAMPLE = """example:
  python -m cbam_flax.models.keras_import Model.h5 --out=notebook.npz

then, in Python:
  from cbam_flax.models.keras_import import load_imported
  model, variables = load_imported("notebook.npz")
  probabilities = jax.nn.sigmoid(model.apply(variables, images))
"""


def _layers() -> dict[str, str]:
    """Keras layers, numbered per type in the order of construction, to their Flax paths."""
    order: dict[str, list[str]] = {"conv2d": [], "bn": [], "dense": []}
    for n in (1, 2, 3, 4):
        gates = f"block{n}/cbam"
        order["conv2d"] += [f"block{n}/conv1", f"block{n}/conv2", f"{gates}/spatial/conv"]
        order["bn"] += [f"block{n}/norm1", f"block{n}/norm2"]
        order["dense"] += [f"{gates}/channel/mean_mlp/dense{layer}" for layer in (1, 2, 3)]
        order["dense"] += [f"{gates}/channel/max_mlp/dense{layer}" for layer in (1, 2, 3)]
        order["conv2d"].append(f"pool{n}/mix")
        if n % 2 == 0:
            pyramid = ("atrous1", "atrous2", "atrous3", "project")
            order["conv2d"] += [f"context{n // 2}/{layer}" for layer in pyramid]
    order["dense"] += ["hidden", "logit"]
    return {f"{kind}_{i}": path for kind, paths in order.items() for i, path in enumerate(paths)}


LAYERS = _layers()
_KINDS = {"conv2d": "conv2d", "batch_normalization": "bn", "dense": "dense"}
_WEIGHT = re.compile(rf"(?:^|/)({'|'.join(_KINDS)})(?:_(\d+))?/(\w+)(?::0)?$")
_CONVOLUTION = {"kernel": ("params", "kernel"), "bias": ("params", "bias")}
_NORMALISATION = {
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}


def variables_from_keras(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Keras weights by name to variables of the `notebook` preset.

    Args:
        weights: `{"conv2d_0/kernel": array, "bn_0/gamma": array, "dense_0/bias": array, ...}` or
            any part of it, each type numbered from 0 in the order of construction: per block conv,
            BN, conv, BN, 7x7 conv, the mean branch's three dense layers, the max branch's three;
            the 1x1 conv after pooling; after blocks 2 and 4 the convs at rates 2, 4, 8 and a 1x1
            conv; at the end two dense layers.

    Returns:
        `{"params": ..., "batch_stats": ...}`. The arrays are unchanged: both frameworks store
        kernels as (height, width, in, out) and flatten maps in the same order.

    Raises:
        ValueError: a name that the graph does not have.
    """
    flat = {}
    for name, array in weights.items():
        layer, _, variable = name.partition("/")
        leaves = _NORMALISATION if layer.startswith("bn_") else _CONVOLUTION
        if layer not in LAYERS or variable not in leaves:
            raise ValueError(f"{name} is not a variable of the notebook's graph")
        collection, leaf = leaves[variable]
        flat[f"{collection}/{LAYERS[layer]}/{leaf}"] = np.asarray(array)
    return unflatten_dict(flat, sep="/")


def read_keras_h5(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The weights of a Keras HDF5 file under the names that `variables_from_keras` takes.

    Keras keeps counting when a session builds a second model (conv2d_24, ...), so each type is
    renumbered from 0 in the same order. Optimizer state is left out.

    Raises:
        ValueError: not such a file, or a layer with weights that the notebook's graph cannot have.
    """
    import h5py

    found: dict[str, dict[int, dict[str, np.ndarray]]] = {kind: {} for kind in _KINDS.values()}
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        if "layer_names" not in root.attrs:
            raise ValueError(
                "it holds no Keras layers; save the model as HDF5 with model.save('Model.h5')"
            )
        for group in root.attrs["layer_names"]:
            for weight in root[group].attrs["weight_names"]:
                weight = weight.decode() if isinstance(weight, bytes) else weight
                match = _WEIGHT.search(weight)
                if match is None:
                    raise ValueError(f"it has {weight}, which the notebook's graph does not have")
                kind, number, variable = match.groups()
                layer = found[_KINDS[kind]].setdefault(int(number or 0), {})
                layer[variable] = root[group][weight][()]
    return {
        f"{kind}_{index}/{variable}": array
        for kind, layers in found.items()
        for index, number in enumerate(sorted(layers))
        for variable, array in layers[number].items()
    }


def model_config(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.model` of the notebook's graph that these variables fit.

    Raises:
        ValueError: a variable is missing, or has a shape that does not go with the others.
    """
    flat = flatten_dict(variables, sep="/")
    try:
        kernels = [flat[f"params/block{n}/conv1/kernel"] for n in (1, 2, 3, 4)]
        mlp = flat["params/block1/cbam/channel/mean_mlp/dense2/kernel"]
        cells, hidden = flat["params/hidden/kernel"].shape
    except KeyError as error:
        raise ValueError(f"it lacks {error.args[0]}") from error
    config = {
        "preset": "notebook",
        "stages": [kernel.shape[-1] for kernel in kernels],
        "reduction": mlp.shape[0] // mlp.shape[1],
        "hidden": hidden,
        "channels": kernels[0].shape[2],
    }
    # Any image size gives the shapes, as long as the flattened map has the same number of cells.
    width = max(cells // kernels[-1].shape[-1] * 16, 28)
    images = jax.ShapeDtypeStruct((1, 28, width, config["channels"]), np.float32)
    expected = jax.eval_shape(create_model(config).init, jax.random.key(0), images)
    for path, leaf in flatten_dict(expected, sep="/").items():
        if path not in flat:
            raise ValueError(f"it lacks {path}")
        if flat[path].shape != leaf.shape:
            raise ValueError(
                f"{path} has shape {flat[path].shape} where the other variables imply {leaf.shape}"
            )
    return config


def save_imported(path: str | os.PathLike, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the variables and the config they fit to one .npz; returns the config."""
    config = model_config(variables)
    temporary = Path(f"{path}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, config=json.dumps(config), **flatten_dict(variables, sep="/"))
    temporary.replace(path)
    return config


def load_imported(path: str | os.PathLike) -> tuple[CBAMResNet, dict[str, Any]]:
    """The model and the variables that `save_imported` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        flat = dict(arrays)
    config = json.loads(str(flat.pop("config")))
    return create_model(config), unflatten_dict(flat, sep="/")


def main() -> None:
    parser = cli.parser("cbam_flax.models.keras_import", __doc__, EXAMPLE)
    parser.add_argument("model", metavar="MODEL.h5", help="a Keras model or its weights, as HDF5")
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="where to write")
    arguments = parser.parse_args()
    if not Path(arguments.model).is_file():
        raise cli.UserError(f"{arguments.model} is not a file; give the notebook's Model.h5.")
    if not Path(arguments.out).absolute().parent.is_dir():
        raise cli.UserError(f"{Path(arguments.out).parent} is not a folder; make it first.")
    try:
        variables = variables_from_keras(read_keras_h5(arguments.model))
        config = save_imported(arguments.out, variables)
    except OSError as error:  # what h5py raises for a file that is not HDF5
        raise cli.UserError(f"{arguments.model} is not an HDF5 file ({error}).") from error
    except ValueError as error:
        raise cli.UserError(f"{arguments.model}: {error}.") from error
    numbers = sum(array.size for array in jax.tree.leaves(variables))
    print(f"{arguments.out}: {numbers:,} numbers, model config {json.dumps(config)}")


if __name__ == "__main__":
    cli.run(main)
