"""A CSV or Parquet table, every cell as text; what a cell means is decided elsewhere."""

import csv
import io
import math
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from data_prep.cli import UserError
from data_prep.files.regular_files import read_bytes

_MAX_BYTES = 1 << 30
_EXCEL = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .xls
_SEPARATORS = ";\t,"  # where two occur alike, a comma is rather a part of a name


def read_table(path: epath.Path) -> pd.DataFrame:
    """The rows as str, without blanks around them; "" where a cell is empty.

    CSV may be separated by comma, semicolon or tab, begin with a byte order mark and end its lines
    as Windows does. A whole number of Parquet is written as one, also where its column is float.

    Raises:
        UserError: the file cannot be read, is neither, has no rows, or has two columns of one name.
    """
    try:
        local = "://" not in os.fspath(path)
        data = read_bytes(path, _MAX_BYTES) if local else path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the table {path} ({error.strerror or error}); give --table a CSV or "
            "Parquet file"
        ) from error
    if data.startswith(_EXCEL):
        raise UserError(
            f"{path} is an Excel workbook; save its sheet as CSV with the encoding UTF-8"
        )
    table = _read_parquet(path, data) if data.startswith(b"PAR1") else _read_csv(path, data)
    if not len(table):
        raise UserError(f"{path} has no rows; give --table a table with a row for each image")
    table.columns = [str(name).strip() for name in table.columns]
    if twice := sorted(set(table.columns[table.columns.duplicated()]) - {""}):
        raise UserError(f"{path} has two columns {twice[0]!r}; rename one of them")
    return table.apply(lambda column: column.str.strip())


def _read_csv(path: epath.Path, data: bytes) -> pd.DataFrame:
    try:
        text = data.decode("utf-8-sig").lstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is neither Parquet nor UTF-8 text (byte {error.start:,}: {error.reason}); "
            "save it as CSV with the encoding UTF-8"
        ) from error
    if "\0" in text:  # as UTF-16 without a byte order mark has
        raise UserError(
            f"{path} has NUL characters, so it is no UTF-8 text; save it as CSV with the "
            "encoding UTF-8"
        )
    if not text:
        raise UserError(f"{path} is empty; give --table a table with a row for each image")
    try:
        header = {sign: _first_line(text, sign) for sign in _SEPARATORS}
        separator = max(_SEPARATORS, key=lambda sign: len(header[sign]))
        # With the header as a row, pandas takes no column for an index, and tells longer rows.
        table = pd.read_csv(
            io.StringIO(text, newline=""),
            sep=separator,
            dtype=str,
            header=None,
            names=range(len(header[separator])),
            keep_default_na=False,
            on_bad_lines="error",
        )
    except (ValueError, csv.Error) as error:  # pandas' own errors are ValueErrors
        why = str(error).strip()
        raise UserError(f"{path} is not a CSV table ({why}); mend it or save it again") from error
    rows = table.iloc[1:].fillna("").reset_index(drop=True)
    rows.columns = table.iloc[0] if len(table) else []
    return rows


def _first_line(text: str, separator: str) -> list[str]:
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])


def _read_parquet(path: epath.Path, data: bytes) -> pd.DataFrame:
    try:
        table = pq.read_table(io.BytesIO(data))
    except (ValueError, OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a Parquet table ({error}); write it again") from error
    columns = {i: map(_cell, column.to_pylist()) for i, column in enumerate(table.columns)}
    rows = pd.DataFrame(columns, dtype=str)
    rows.columns = table.column_names
    return rows


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
