"""Figures and tables as Markdown."""

from collections.abc import Sequence
from typing import Any


def interval(figure: dict[str, float | None]) -> str:
    """A figure with its interval, three decimals."""
    value, low, high = (figure[name] for name in ("value", "low", "high"))
    if value is None:
        return "undefined"
    return f"{value:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of these cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
