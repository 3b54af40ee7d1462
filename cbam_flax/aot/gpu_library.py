"""The operations of convolutions and matrix products in a compiled GPU program.

XLA leaves convolutions to cuDNN and products to cuBLAS, whose calls its own count takes for free;
other products are `dot` instructions inside fusions. A multiply and an add are two operations, and
taps that fall on padding are counted.
"""

import math
import re
from collections.abc import Mapping, Sequence

CALL = 'custom_call_target="__cu'
_CONVOLUTION = re.compile(r'custom_call_target="__cudnn\$conv(\w*)"')
_DIM_LABELS = re.compile(r"dim_labels=\w+_(\w+)->")
_DOT = re.compile(r"^ +(?:ROOT )?%?[\w.-]+ = (\S+) dot\(([^)]*)\)")
_CONTRACTED = re.compile(r"lhs_contracting_dim(?:s=\{|ensions\":\[)([^\]}]*)")


def flops(line: str, types: Mapping[str, str], inside: Sequence[str]) -> int:
    """Of one instruction; 0 if it is neither a library's convolution or product nor holds one.

    Args:
        line: of the HLO text.
        types: of the instructions before it by name, such as "bf16[8,4]{1,0}".
        inside: the lines of the computation that a fusion runs.
    """
    if call := _CONVOLUTION.search(line):
        return _convolution(call[1], line, types)
    if CALL + "blas$" in line:
        return _product(line, types)
    written = {name: kind for name, kind in map(_named, inside) if name}
    return sum(_product(one, written) for one in inside if _DOT.match(one))


def _convolution(kind: str, line: str, types: Mapping[str, str]) -> int:
    """Forward or either gradient: each multiplies every output by every tap of its kernel."""
    result = _sizes(_named(line)[1])
    first, second = (_sizes(types[name]) for name in _operands(line)[:2])
    output, kernel = {
        "BackwardInput": (first, second),
        "BackwardFilter": (second, result),
    }.get(kind, (result, second))
    labels = _DIM_LABELS.search(line)
    assert labels is not None  # every convolution has them
    return 2 * math.prod(output) * math.prod(kernel) // kernel[labels[1].index("o")]


def _product(line: str, types: Mapping[str, str]) -> int:
    left = _sizes(types[_operands(line)[0]])
    contracted = _CONTRACTED.search(line)
    axes = re.findall(r"\d+", contracted[1]) if contracted else []
    return 2 * math.prod(_sizes(_named(line)[1])) * math.prod(left[int(axis)] for axis in axes)


def _named(line: str) -> tuple[str, str]:
    """The name and the type of an instruction; empty for any other line."""
    match = re.match(r"^ +(?:ROOT )?%?([\w.-]+) = (\S.*?) [a-z][\w-]*\(", line)
    return (match[1], match[2]) if match else ("", "")


def _operands(line: str) -> list[str]:
    found = re.search(r" [a-z][\w-]*\((.*?)\)", line.partition(" = ")[2])
    return re.findall(r"%([\w.-]+)", found[1]) if found else []


def _sizes(kind: str) -> list[int]:
    """Of an array, or of the first one of a tuple."""
    found = re.search(r"\[([\d,]*)\]", kind)
    return [int(size) for size in found[1].split(",") if size] if found else []
