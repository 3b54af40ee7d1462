import pandas as pd
import pytest
from etils import epath

from data_prep.cli import UserError
from data_prep.tables.reading import read_table


def read(tmp_path, data):
    path = epath.Path(tmp_path / "labels.csv")
    path.write_bytes(data)
    return read_table(path).to_dict("records")


@pytest.mark.parametrize(
    "data",
    [
        b"image,a b\n1.png,007\n2.png,\n",
        b"image;a b\r\n1.png;007\r\n2.png;\r\n",
        b"image\ta b\n1.png\t007\n2.png\t",
        b'\xef\xbb\xbf\n\nimage, a b \n1.png," 007"\n\n2.png\n',
    ],
)
def test_separators_line_ends_and_blanks(tmp_path, data):
    assert read(tmp_path, data) == [
        {"image": "1.png", "a b": "007"},
        {"image": "2.png", "a b": ""},
    ]


def test_text_that_pandas_takes_for_missing_is_kept(tmp_path):
    rows = read(tmp_path, b"image,patient\n1.png,NA\n2.png,nan\n3.png,1e5\n")
    assert [row["patient"] for row in rows] == ["NA", "nan", "1e5"]


def test_a_comma_in_the_name_of_a_column_is_no_separator(tmp_path):
    assert read(tmp_path, b"image;age, years\n1.png;50\n") == [
        {"image": "1.png", "age, years": "50"}
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"image,sex\n1.png,weibl\xefch\n", "UTF-8"),
        (b"image,sex\n1.png,F,oh\n", r"Expected 2 fields in line 2, saw 3\)"),
        ("image,sex\n1.png,F\n".encode("utf-16-le"), "NUL.*UTF-8"),
        (b"PK\x03\x04 and so on", "Excel"),
        (b"image,sex,sex\n1.png,F,F\n", "two columns 'sex'"),
        (b"image,sex\n", "no rows"),
        (b"\n", "is empty"),
        (b"PAR1 and no more", "Parquet"),
    ],
)
def test_what_is_no_table(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, data)


def test_no_such_table(tmp_path):
    with pytest.raises(UserError, match="cannot read the table"):
        read_table(epath.Path(tmp_path / "none.csv"))


def test_parquet(tmp_path):
    path = tmp_path / "labels.parquet"
    table = pd.DataFrame(
        {"patient": [12, None], "label": [1, 0], "age": [5.5, 6.0], "image": ["a.png", None]}
    )
    table.set_index("image").to_parquet(path)  # an index is a column like any other
    assert read_table(epath.Path(path)).to_dict("records") == [
        {"patient": "12", "label": "1", "age": "5.5", "image": "a.png"},
        {"patient": "", "label": "0", "age": "6", "image": ""},
    ]
