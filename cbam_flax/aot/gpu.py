"""NVIDIA GPUs that need not be there, described for the compiler in JAX's CUDA plugin."""

import importlib.util
from typing import Any, NamedTuple

from jax.experimental import topologies

from cbam_flax.aot.chips import Chip
from data_prep.cli import UserError

PLUGIN = "jax_cuda12_plugin"


class Cores(NamedTuple):
    """Streaming multiprocessors: what the compiler tiles and schedules for."""

    capability: int  # CUDA compute capability, x.0
    count: int
    float32_units: int  # in each
    shared_memory: int  # KiB in each; a block can have all but one
    l2_cache: int  # MiB, of the chip


# NVIDIA's papers on the A100 and H100 architectures (the H200 is an H100 with more memory), and the
# table of compute capabilities in the CUDA programming guide, also for the limits below.
CORES = {
    "a100": Cores(8, 108, 64, 164, 40),
    "h100": Cores(9, 132, 128, 228, 50),
    "h200": Cores(9, 132, 128, 228, 50),
}
# XLA's GpuTargetConfigProto; the versions of CUDA and cuDNN are those of requirements-cuda.txt.
CONFIG = """
platform_name: "CUDA"
device_description_str: "NVIDIA {name}"
dnn_version_info {{ major: 9 minor: 28 }}
gpu_device_info {{
  name: "NVIDIA {name}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {cores.capability} }}
  core_count: {cores.count}
  fpus_per_core: {cores.float32_units}
  clock_rate_ghz: {clock:.3f}
  memory_bandwidth: {chip.bandwidth:.0f}
  device_memory_size: {chip.memory:.0f}
  device_address_bits: 64
  l2_cache_size: {l2_cache}
  shared_memory_per_core: {shared_memory}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared_memory_of_block}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  threads_per_warp: 32
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  runtime_version: "12.9.0"
  compile_time_toolkit_version: "12.9.0"
  driver_version: "12.9.0"
  dnn_version: "9.28.0"
}}
"""


def config(name: str, chip: Chip) -> str:
    """The chip in the words of XLA's compiler, a protocol buffer as text."""
    cores = CORES[name]
    return CONFIG.format(
        name=name.upper(),
        chip=chip,
        cores=cores,
        clock=chip.clock / 1e9,
        l2_cache=cores.l2_cache * 2**20,
        shared_memory=cores.shared_memory * 2**10,
        shared_memory_of_block=(cores.shared_memory - 1) * 2**10,
    )


def devices(name: str, chip: Chip, count: int) -> list[Any]:
    """So many GPUs of one computer, to compile for.

    Raises:
        UserError: the CUDA plugin is not installed.
    """
    if importlib.util.find_spec(PLUGIN) is None:
        raise UserError(
            "the GPU compiler is not installed; pip install -r requirements-cuda.txt brings it"
        )
    description = topologies.get_topology_desc(
        platform="cuda", topology=f"1x1x{count}", target_config=config(name, chip)
    )
    return list(description.devices)
