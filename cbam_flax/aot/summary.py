"""A compiler's report as the figures that people and programs ask for."""

import collections
import re
from typing import Any

from cbam_flax.aot.chips import Chip
from cbam_flax.aot.compile import Report, cost
from cbam_flax.aot.targets import Target

GIB, MB = 2**30, 1e6
EXPENSIVE = 10  # instructions printed
ESTIMATES = {
    "tpu": "cycles of the TPU compiler's cost model at the chip's clock; not measured",
    "gpu": "for each instruction the longer of its arithmetic at the peak and its bytes at the "
    "bandwidth, a lower bound; not measured. Left out: tuned algorithms and workspaces of cuDNN, "
    "launches, communication",
}
SMALLEST = 0.005  # milliseconds; a part below is left out


def summarise(
    report: Report,
    target: Target,
    *,
    topology: str,
    batch_per_chip: int,
    stage: str | None,
    by: str,
) -> dict[str, Any]:
    """The report as named figures; JSON types only.

    Bytes and FLOPs are per chip and step; times are milliseconds.

    Args:
        stage: the one that was compiled; None for the full step.
        by: "stage" or "op", the key for summing the time.
    """
    chip = target.chip
    share = len(target.devices) / target.chips  # devices per chip, 2 on v4
    # A device that is half a chip has half its arithmetic, bandwidth and memory.
    part = chip._replace(
        flops=chip.flops / share, bandwidth=chip.bandwidth / share, memory=chip.memory / share
    )
    seconds = report.seconds(part)
    floors = {
        "arithmetic": report.flops / part.flops * 1e3,
        "traffic": report.hbm_bytes / part.bandwidth * 1e3,
    }
    per_image = max(report.temporary_bytes / (batch_per_chip / share), 1)
    expensive = sorted(report.instructions, key=lambda one: -cost(one, part))
    return {
        "topology": topology,
        "chips": target.chips,
        "batch_per_chip": batch_per_chip,
        "stage": stage,
        "estimate": ESTIMATES[target.platform],
        "milliseconds": seconds * 1e3,
        "unpriced_milliseconds": 1e3
        * sum(cost(one, part) for one in report.instructions if not one.priced),
        "images_per_second_per_chip": batch_per_chip / seconds,
        "floor_milliseconds": floors,
        "roofline_fraction": max(floors.values()) / (seconds * 1e3),
        "flops": report.flops * share,
        "hbm_bytes": report.hbm_bytes * share,
        "memory": {
            "argument_bytes": report.argument_bytes * share,
            "temporary_bytes": report.temporary_bytes * share,
            "peak_bytes": report.peak_bytes * share,
            "chip_bytes": chip.memory,
        },
        "largest_batch_per_chip": int((part.memory - report.argument_bytes) / per_image * share),
        "collectives": _total(report.collectives, lambda one: one.opcode.removesuffix("-start")),
        "milliseconds_by": _milliseconds(report, part, by),
        "most_expensive": [
            {
                "milliseconds": cost(one, part) * 1e3,
                "instruction": one.name,
                "runs": one.runs,
                "from": one.op_name,
                "source": one.source,
            }
            for one in expensive[:EXPENSIVE]
        ],
    }


def _total(instructions: Any, key: Any) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for one in instructions:
        entry = found.setdefault(key(one), {"count": 0, "bytes": 0})
        entry["count"] += one.runs
        entry["bytes"] += one.runs * one.output_bytes
    return found


def _milliseconds(report: Report, chip: Chip, by: str) -> dict[str, float]:
    """By the part of the model or of the step, or by opcode; the largest first."""
    times: dict[str, float] = collections.defaultdict(float)
    for one in report.instructions:
        stage = re.search(r"(?:CBAMResNet|Part)\)*/(\w+)/", one.op_name)
        part = "augmentation" if "augment.py" in one.source else "loss, optimizer and the rest"
        name = one.opcode if by == "op" else stage[1] if stage else part
        times[name] += cost(one, chip) * 1e3
    names = sorted(times, key=lambda name: -times[name])
    return {name: times[name] for name in names if times[name] >= SMALLEST}


def describe(figures: dict[str, Any]) -> str:
    """The figures as text."""
    memory, floors = figures["memory"], figures["floor_milliseconds"]
    largest = ""
    if figures["stage"] is None:
        largest = (
            "; if memory grows in proportion, the largest batch per chip is about "
            f"{figures['largest_batch_per_chip']}"
        )
    # The TPU compiler refuses what does not; the GPU compiler does not look.
    fits = "it fits" if memory["peak_bytes"] <= memory["chip_bytes"] else "it does NOT fit"
    lines = [
        f"memory per chip: arguments {memory['argument_bytes'] / GIB:.2f} GiB, temporary "
        f"{memory['temporary_bytes'] / GIB:.2f}, peak {memory['peak_bytes'] / GIB:.2f} of "
        f"{memory['chip_bytes'] / GIB:.0f}: {fits}{largest}",
        f"estimated time: {figures['milliseconds']:.2f} ms, "
        f"{figures['images_per_second_per_chip']:.0f} images/s per chip "
        f"({figures['unpriced_milliseconds']:.2f} ms of it are of instructions that the compiler "
        "gives no estimate for)",
        f"the estimate: {figures['estimate']}",
        f"floors: arithmetic {floors['arithmetic']:.2f} ms ({figures['flops'] / 1e12:.2f} TFLOP), "
        f"HBM traffic {floors['traffic']:.2f} ms ({figures['hbm_bytes'] / 1e9:.2f} GB); "
        f"{figures['roofline_fraction']:.0%} of the roofline",
    ]
    lines += [
        f"{kind}: {entry['count']} with {entry['bytes'] / MB:.2f} MB"
        for kind, entry in figures["collectives"].items()
    ] or ["no collectives"]
    lines += ["", f"{'ms':>9}  share  part"]
    for name, value in figures["milliseconds_by"].items():
        lines.append(f"{value:9.2f}  {value / figures['milliseconds']:5.1%}  {name}")
    lines += ["", f"{'ms':>9}  instruction, where it comes from"]
    for one in figures["most_expensive"]:
        runs = f" x {one['runs']}" if one["runs"] > 1 else ""
        lines.append(f"{one['milliseconds']:9.2f}  {one['instruction']}{runs}  {one['source']}")
        lines.append(f"{'':11}{one['from']}")
    return "\n".join(lines)
