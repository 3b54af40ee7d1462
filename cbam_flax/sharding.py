"""The device mesh, and the shardings of batches and the training state.

Axes: `data` and `fsdp` share the batch; `fsdp` also holds a piece of every large array of the
state; `spatial` splits the image height (XLA exchanges the halos that the convolutions need).
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from data_prep.cli import UserError

AXES = ("data", "fsdp", "spatial")
IMAGES = P(("data", "fsdp"), "spatial")  # (B, H, W, ...)
EXAMPLES = P(("data", "fsdp"))  # (B, ...)
# Pixels. At 32, where the last maps have two rows, XLA's partitioner (jax 0.10.2) gets gradients
# wrong by 1 %; from 64 on they agree with one device to 1e-14 (float64, data 2, spatial 2 or 4).
MIN_SPLIT_SIZE = 64
MIN_SHARDED_SIZE = 2**14  # elements; smaller arrays cost more to gather than to keep


def make_mesh(shape: Mapping[str, int], devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices (or `devices`); an axis of -1 takes what the others leave.

    Raises:
        UserError: the axes do not multiply to the number of devices.
    """
    every = jax.devices() if devices is None else devices
    sizes = [shape[axis] for axis in AXES]
    try:
        sizes = list(np.empty(len(every)).reshape(sizes).shape)
    except ValueError as error:
        raise UserError(
            f"config.mesh {dict(zip(AXES, sizes, strict=True))} does not fit {len(every)} "
            f"devices: the product must be that number, with -1 on at most one axis"
        ) from error
    kinds = (AxisType.Auto,) * len(AXES)
    if devices is None:
        return jax.make_mesh(tuple(sizes), AXES, kinds)  # orders them by their links
    return Mesh(np.reshape(devices, sizes), AXES, axis_types=kinds)


def check_divisible(mesh: Mesh, *, image_size: int, batch_size: int, accumulate: int = 1) -> None:
    """Refuses batches and images that microbatches and the mesh cannot split evenly.

    Raises:
        UserError: the message names the size, the axes and the fix.
    """
    pieces = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (accumulate * pieces):
        raise UserError(
            f"config.batch_size {batch_size} cannot be split into {accumulate} microbatches "
            f"(optimizer.accumulate) over {pieces} devices (mesh.data x mesh.fsdp); "
            f"make it a multiple of {accumulate * pieces}"
        )
    if mesh.shape["spatial"] > 1 and image_size < MIN_SPLIT_SIZE:
        raise UserError(
            f"config.image_size {image_size} is too small for config.mesh.spatial "
            f"{mesh.shape['spatial']}; images are split from {MIN_SPLIT_SIZE} pixels on"
        )
    if image_size % mesh.shape["spatial"]:
        raise UserError(
            f"config.image_size {image_size} cannot be split over "
            f"config.mesh.spatial {mesh.shape['spatial']}"
        )


def images_per_device(mesh: Mesh, batch_size: int) -> int:
    """Images per device, for a batch split over the axes data and fsdp."""
    return batch_size // (mesh.shape["data"] * mesh.shape["fsdp"])


def state_sharding(abstract_state: Any, mesh: Mesh, min_size: int = MIN_SHARDED_SIZE) -> Any:
    """For each array of the state: splits its longest axis that `fsdp` divides, if it is large.

    One rule by shape gives parameters, their optimizer moments and their averages the same
    sharding. It is meant for the flatten-dense kernel, most of the model.
    """
    pieces = mesh.shape["fsdp"]

    def place(array: jax.ShapeDtypeStruct) -> NamedSharding:
        spec: list[str | None] = [None] * array.ndim
        divisible = [axis for axis in range(array.ndim) if array.shape[axis] % pieces == 0]
        if array.size >= min_size and divisible:
            spec[max(divisible, key=lambda axis: array.shape[axis])] = "fsdp"
        return NamedSharding(mesh, P(*spec))

    return jax.tree.map(place, abstract_state)


def batch_sharding(mesh: Mesh) -> dict[str, NamedSharding]:
    """The shardings of a batch: `image` (B, S, S) and `label` (B,) or (B, k)."""
    return {"image": NamedSharding(mesh, IMAGES), "label": NamedSharding(mesh, EXAMPLES)}


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())
