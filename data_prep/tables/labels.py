"""What the cells of a row say of the findings: 0, 1, or nothing."""

import functools
import re
from collections.abc import Sequence

from data_prep.manifest import NOT_LABELLED

# Of a label. Elsewhere only an empty cell is missing: a patient may well be called NA.
_MISSING = {"", "na", "n/a", "nan", "null", "<na>"}
_PLAIN = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_UNCERTAIN = {"-1", "-1.0", "uncertain"}
_NORMAL = {"normal", "negative", "no finding", "no findings", "healthy"}
SEPARATOR = "|"  # between the findings of one cell, as in NIH ChestX-ray14


def is_missing(cell: str) -> bool:
    return cell.casefold() in _MISSING


def is_normal(value: str) -> bool:
    """Whether a value, or a folder's name, says that nothing was found."""
    return re.sub(r"[\s_-]+", " ", value).strip().casefold() in _NORMAL


def split_cell(cell: str) -> set[str]:
    """The findings that a cell lists."""
    return {part.strip() for part in cell.split(SEPARATOR)} - {""}


def matches(cell: str, positive: str) -> bool:
    """Whether the cell, or one of the findings that it lists, is the value or fits the regex."""
    pattern = _pattern(positive)
    return any(value == positive or pattern.fullmatch(value) for value in {cell} | split_cell(cell))


@functools.cache
def _pattern(positive: str) -> re.Pattern[str]:
    try:
        return re.compile(positive)
    except re.error:  # a value such as "mass (left"
        return re.compile(re.escape(positive))


def label_of_cell(cell: str, positive: str) -> int:
    """0, 1 or `NOT_LABELLED`.

    Args:
      cell: 0 or 1, false or true; or anything where `positive` is given.
      positive: a value or a regular expression that means 1; "" where there is none.
    """
    if is_missing(cell) or cell.casefold() in _UNCERTAIN:
        return NOT_LABELLED
    if positive:
        return int(matches(cell, positive))
    return _PLAIN.get(cell.casefold(), NOT_LABELLED)


def read_label(cells: Sequence[str], positive: str, values: Sequence[str]) -> tuple[int, ...]:
    """One label per finding.

    Args:
      cells: of the label columns.
      positive: as for `label_of_cell`.
      values: the values that are findings of their own, in the one column that lists them; else
        empty, and each cell is a finding.
    """
    if not values:
        return tuple(label_of_cell(cell, positive) for cell in cells)
    (cell,) = cells
    if is_missing(cell):
        return (NOT_LABELLED,) * len(values)
    found = split_cell(cell)
    return tuple(int(value in found) for value in values)
