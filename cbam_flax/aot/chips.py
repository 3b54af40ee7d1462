"""The chips that a step can be compiled for; the first part of a topology is one of these names."""

from typing import NamedTuple


class Chip(NamedTuple):
    """Per chip: clock Hz, bfloat16 FLOP/s, HBM bytes/s and bytes, links to other chips bytes/s."""

    clock: float
    flops: float
    bandwidth: float
    memory: float
    links: float
    # Per element, beside the bytes; on a TPU 14 to 18 in the compiler's final schedules for a v5e
    # (`python -m benchmarks.schedule`).
    gather_cycles: int = 16


# cloud.google.com/tpu/docs/system-architecture-tpu-vm and the pages of the versions. The clocks are
# those at which the matrix units reach the peak; links are one direction, all ports together.
TPUS = {
    "v4": Chip(1.05e9, 275e12, 1228e9, 32 * 2**30, 300e9),
    "v5e": Chip(1.5e9, 197e12, 819e9, 16 * 2**30, 200e9),
    "v5p": Chip(1.75e9, 459e12, 2765e9, 95 * 2**30, 600e9),
    "v6e": Chip(1.75e9, 918e12, 1640e9, 32 * 2**30, 400e9),
}
# NVIDIA's data sheets of the A100 80 GB, H100 and H200, all SXM: dense peaks, the highest clock,
# NVLink in one direction.
GPUS = {
    "a100": Chip(1.41e9, 312e12, 2039e9, 80e9, 300e9, gather_cycles=0),
    "h100": Chip(1.98e9, 989e12, 3350e9, 80e9, 450e9, gather_cycles=0),
    "h200": Chip(1.98e9, 989e12, 4800e9, 141e9, 450e9, gather_cycles=0),
}
