"""The CSV files that the commands write: safe to open in a spreadsheet, and lossless.

A spreadsheet takes a cell that begins with = + - @ for a formula, and file names, UIDs and patient
ids are whatever a stranger chose. Such text is written after an apostrophe. Numbers are written as
they are. A file name need not be UTF-8, but the CSV file is: a byte of a name that is not, such as
0xE9, is written as `\\udce9`, as Python shows it. `read` gives the original of both.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from data_prep.cli import UserError, naming

# Blanks before it do not disarm a formula, and the full-width signs count in some locales. The
# apostrophes are those of text that looks like escaped text already.
_FORMULA = re.compile(r"['\s\0]*[=+\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n]")
# What UTF-8 cannot hold, and a backslash that would make other text look like it.
_SURROGATE = re.compile(r"[\ud800-\udfff]|\\(?=u(?:d[89a-f][0-9a-f]{2}|005c))")
_ESCAPED_SURROGATE = re.compile(r"\\u(d[89a-f][0-9a-f]{2}|005c)")


def to_utf8(text: str) -> str:
    """Text that UTF-8 can hold; nearly always the text itself. `from_utf8` is the inverse."""
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def from_utf8(text: str) -> str:
    """The original of what `to_utf8` gave."""
    return _ESCAPED_SURROGATE.sub(lambda found: chr(int(found[1], 16)), text)


def escape(text: str) -> str:
    """Text as a cell that no spreadsheet takes for a formula. `unescape` is the inverse."""
    text = to_utf8(text)
    return f"'{text}" if _FORMULA.match(text) else text


def unescape(cell: str) -> str:
    """The original of what `escape` gave; any other cell, such as a number, is left as it is."""
    return from_utf8(cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell)


def write(path: Any, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file.

    Args:
      path: a pathlib.Path or epath.Path.
      columns: the first line.
      rows: cells in the order of the columns; a str is escaped, anything else is a number.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([escape(cell) if isinstance(cell, str) else cell for cell in row])
    with naming(path):
        path.write_bytes(table.getvalue().encode())


def read(path: Any, columns: Sequence[str], mend: str) -> list[dict[str, str]]:
    """The rows of a CSV file that `write` wrote, or a version before it that did not escape.

    Args:
      path: a pathlib.Path or epath.Path.
      columns: that the file must have; it may have more.
      mend: what the user can do, as the last clause of the error.

    Raises:
      UserError: the file is missing, unreadable or cut off, is no CSV file, or lacks a column.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        header, *rows = [line for line in lines if line] or [[]]
        if not text.endswith("\n"):
            raise UserError(f"{path} is cut off; {mend}")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {mend}") from error
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file ({error}); {mend}") from error
    if missing := [name for name in columns if name not in header]:
        raise UserError(f"{path} has no column {missing[0]}; {mend}")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise UserError(
                f"{path} has {len(row)} cells in row {number} and {len(header)} columns; {mend}"
            )
    return [dict(zip(header, map(unescape, row), strict=True)) for row in rows]
