"""Reads the cost of a compiled TPU or GPU program from the text of its HLO.

The TPU compiler writes `estimated_cycles`, its own cost model, beside the instructions of the
scheduled program. A few have none (pad, select-and-scatter, gather): for those only the bytes read
and written are known, and how many elements a gather picks. The GPU compiler writes no estimates:
there the operations of convolutions and matrix products are counted. `cbam_flax.aot.compile` makes
the text.
"""

import math
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from cbam_flax.aot import gpu_library

_PACKAGE = pathlib.Path(__file__).parents[1]
# Free, or running in parallel with instructions that are estimated.
_FREE = (
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "custom-call"),
    *("while", "call", "conditional", "after-all", "partition-id", "replica-id"),
)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_BITS = {"pred": 8, "bf16": 16, "f16": 16, "u8": 8, "s8": 8, "f64": 64, "s64": 64, "u64": 64}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^  (?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][\w-]*)\(")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLED = re.compile(r"(?:body|to_apply|calls|branch_computations)=\{?((?:%[\w.-]+(?:, )?)+)\}?")
_GATHER = re.compile(r" gather\(")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_SHAPE = re.compile(r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\](\{[^}]*\})?")


class Instruction(NamedTuple):
    """One instruction of the scheduled program, with all its runs."""

    name: str
    opcode: str
    cycles: int  # the compiler's estimate, all runs together; 0 where it gives none
    runs: int
    output_bytes: int  # of one run
    moved_bytes: int  # read from and written to HBM, all runs together
    flops: int  # of the convolutions and matrix products of a GPU, all runs together
    gathered: int  # elements that a gather picks one by one, all runs together
    priced: bool  # the compiler gives an estimate, or it costs nothing
    op_name: str  # the path of linen modules and the primitive it came from
    source: str  # "file.py:12" of the innermost line of this package, or ""


def instructions(hlo: str) -> list[Instruction]:
    """Every instruction that the entry computation runs, loop bodies times their trip count.

    A fusion's estimate includes its instructions, which are not listed. All branches of a
    conditional are counted.
    """
    lines = hlo.splitlines()
    sources = _sources(lines)
    computations: dict[str, list[str]] = {}
    current: list[str] = []
    entry = ""
    for line in lines:
        if match := _COMPUTATION.match(line):
            current = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif _INSTRUCTION.match(line):
            current.append(line)
    return list(_run(computations, entry, 1, sources))


def _run(
    computations: dict[str, list[str]], name: str, runs: int, sources: dict[int, str]
) -> Iterator[Instruction]:
    sizes: dict[str, int] = {}
    types: dict[str, str] = {}
    for line in computations.get(name, []):
        match = _INSTRUCTION.match(line)
        assert match is not None  # only such lines are kept
        opcode = match[3]
        cycles, op_name = _CYCLES.search(line), _OP_NAME.search(line)
        frame = _FRAME.search(line)
        sizes[match[1]] = _bytes(match[2], hbm_only=True)
        types[match[1]] = match[2]
        library = gpu_library.CALL in line
        free = (
            (opcode in _FREE and not library)
            or opcode.endswith(("-start", "-done"))
            or opcode in COLLECTIVES
        )
        operands = re.findall(r"%([\w.-]+)", line[match.end() :].partition(")")[0])
        moved = sizes[match[1]] + sum(sizes.get(operand, 0) for operand in operands)
        called = _CALLED.search(line)
        callees = re.findall(r"%([\w.-]+)", called[1]) if called else []
        parts = [part for callee in callees for part in computations.get(callee, [])]
        gathers = any(map(_GATHER.search, [line, *(parts if opcode == "fusion" else [])]))
        yield Instruction(
            name=match[1],
            opcode=opcode,
            cycles=runs * int(cycles[1]) if cycles else 0,
            runs=runs,
            output_bytes=_bytes(match[2]),
            moved_bytes=0 if free else runs * moved,
            flops=runs * gpu_library.flops(line, types, parts if opcode == "fusion" else []),
            gathered=runs * _elements(match[2]) if gathers else 0,
            priced=free or cycles is not None,
            op_name=op_name[1] if op_name else "",
            source=sources.get(int(frame[1]), "") if frame else "",
        )
        if opcode in ("while", "call", "conditional"):
            trips = _TRIPS.search(line)
            times = int(trips[1]) if trips else 1
            for callee in callees:
                yield from _run(computations, callee, runs * times, sources)


def _bytes(shapes: str, hbm_only: bool = False) -> int:
    """Size of an array or a tuple of arrays as HLO writes it, without layout padding.

    `hbm_only` leaves out what the compiler put into another memory, marked S(1) and so on.
    """
    total = 0
    for kind, sizes, layout in _SHAPE.findall(shapes):
        if hbm_only and "S(" in layout:
            continue
        bits = _BITS.get(kind) or int(kind[1:])
        total += bits // 8 * _product(sizes)
    return total


def _elements(shapes: str) -> int:
    return sum(_product(sizes) for _, sizes, _ in _SHAPE.findall(shapes))


def _product(sizes: str) -> int:
    return math.prod(int(size) for size in sizes.split(",") if size)


def _sources(lines: list[str]) -> dict[int, str]:
    """Stack frame id -> the innermost line of this package on that stack."""
    tables: dict[str, dict[int, str]] = {}
    current: dict[int, str] = {}
    for line in lines:
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            current = tables.setdefault(line, {})
        elif match := re.match(r"(\d+) (.+)", line):
            current[int(match[1])] = match[2]
        elif line.startswith(("%", "ENTRY")):
            break
    numbers = {
        table: {key: dict(re.findall(r"(\w+)=(\d+)", text)) for key, text in rows.items()}
        for table, rows in tables.items()
    }

    def source(frame: int) -> str:
        seen: set[int] = set()
        while frame not in seen and frame in numbers.get("StackFrames", {}):
            seen.add(frame)
            row = numbers["StackFrames"][frame]
            location = numbers["FileLocations"][int(row["file_location_id"])]
            file = tables["FileNames"][int(location["file_name_id"])].strip('"')
            # A checkout has the package's name too, and often a virtual environment in it.
            _, found, inside = file.rpartition(f"/{_PACKAGE.name}/")
            if found and (_PACKAGE / inside).is_file():
                return f"{_PACKAGE.name}/{inside}:{location['line']}"
            frame = int(row["parent_frame_id"])
        return ""

    return {frame: source(frame) for frame in tables.get("StackFrames", {})}
