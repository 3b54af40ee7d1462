"""The devices of a topology, TPUs or GPUs, which need not be there to be compiled for."""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

from jax.experimental import topologies

from cbam_flax.aot import gpu
from cbam_flax.aot.chips import GPUS, TPUS, Chip
from data_prep.cli import UserError

# The smallest slice that libtpu describes; fewer chips are a subset of it.
SMALLEST = {"v4": "2x2x1", "v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2"}


class Target(NamedTuple):
    """Devices to compile for. On v4 a device is one of a chip's two cores, elsewhere a chip."""

    devices: list[Any]
    chips: int
    chip: Chip
    platform: str  # "tpu" or "gpu"


def target(topology: str, chips: int | None = None) -> Target:
    """The chips of a topology such as "v5e:2x4" or "h200:8", or the first `chips` of them.

    Raises:
        UserError: an unknown version or shape, too many chips, or no compiler on this machine.
    """
    version, _, shape = topology.partition(":")
    if version in GPUS and re.fullmatch(r"(:[1-9]\d*)?", topology.removeprefix(version)):
        available = int(shape or 1)
        devices = gpu.devices(version, GPUS[version], available)
        chip, platform = GPUS[version], "gpu"
    elif version in TPUS and re.fullmatch(r"\d+(x\d+){1,2}", shape):
        available = math.prod(map(int, shape.split("x")))
        devices = _tpus(topology)
        chip, platform = TPUS[version], "tpu"
    else:
        raise UserError(
            f"--topology is {topology!r}; it must be one of {', '.join(TPUS)}, a colon, and the "
            f"shape of the slice, such as v5e:2x4 or v4:2x2x1, or one of {', '.join(GPUS)}, for "
            "several GPUs with their number, such as h200:8"
        )
    chips = available if chips is None else chips
    if not 1 <= chips <= available:
        raise UserError(f"--chips is {chips}; {topology} has {available}")
    per_chip = len(devices) // available
    return Target(devices[: chips * per_chip], chips, chip, platform)


def _tpus(topology: str) -> list[Any]:
    """What libtpu makes of the topology."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "the TPU compiler is not installed; pip install -r requirements-tpu.txt brings it"
        )
    # Without these libtpu queries the cloud metadata server and locks out other processes.
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    try:
        return list(topologies.get_topology_desc(topology, "tpu").devices)
    except Exception as error:  # libtpu raises many types; the first line names the cause
        version = topology.partition(":")[0]
        raise UserError(
            f"libtpu knows no topology {topology!r} ({str(error).splitlines()[0]}); the smallest "
            f"of {version} is {version}:{SMALLEST[version]}"
        ) from error
