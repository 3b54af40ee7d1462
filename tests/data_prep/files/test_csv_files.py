import json
import math

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_prep.cli import UserError
from data_prep.files import csv_files

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
# Any code point, lone surrogates too, but mostly those that mean something to a parser.
TEXT = st.text(st.sampled_from("=+-@\t\r\n'\"\\,; au05cd9\udce9\ud83d\0é") | st.characters())
READABLE = "evaluate again"
ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@ANY_SPEED
@given(TEXT)
@example("\\udce9")
@example("\\\\u005cudce9")
@example("'=1")
@example("' '=1")
def test_any_text_survives_and_begins_no_formula(text):
    cell = csv_files.escape(text)
    cell.encode()
    assert not cell.startswith(FORMULAS)
    assert csv_files.unescape(cell) == text
    plain = csv_files.to_utf8(text)
    plain.encode()
    assert csv_files.from_utf8(plain) == text


@ANY_SPEED
@given(rows=st.lists(st.tuples(TEXT, st.floats(), TEXT), max_size=4))
@example([("=a\r\nb", -1.5, '"'), ("", math.inf, "\r"), ("\n", 0.0, "")])
def test_any_table_survives_and_its_numbers_stay_plain(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "table.csv"
    csv_files.write(path, ("name", "logit", "note"), rows)
    path.read_text(encoding="utf-8")
    found = csv_files.read(path, ("name", "note"), READABLE)
    assert [(row["name"], row["logit"], row["note"]) for row in found] == [
        (name, str(logit), note) for name, logit, note in rows
    ]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("image-1", "image-1"),
        ("O'Brien", "O'Brien"),
        ("'quoted'", "'quoted'"),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("-1", "'-1"),
        (" \uff1d1", "' \uff1d1"),
        ("'=1", "''=1"),
        ("b'\\x89PNG'", "b'\\x89PNG'"),
        ("caf\udce9", "caf\\udce9"),
        ("caf\\udce9", "caf\\u005cudce9"),
    ],
)
def test_how_text_looks_in_the_file(text, cell):
    assert csv_files.escape(text) == cell


def test_a_table_of_the_version_before_is_read(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_bytes(b"\xef\xbb\xbfname,logit\r\n=1+1,-2.5\r\ncaf\xe9,1\r\n'a',2\r\n\r\n")
    found = csv_files.read(path, ("name", "logit"), READABLE)
    assert [row["name"] for row in found] == ["=1+1", "caf\udce9", "'a'"]
    assert [row["logit"] for row in found] == ["-2.5", "1", "2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is cut off"),
        (b"name,logit\r\na,1.2", "is cut off"),
        (b"other\n1\n", "has no column name"),
        (b"name,logit\na,1\nb\n", "has 1 cells in row 2 and 2 columns"),
        (b'name,logit\n"a', "is not a CSV file"),
        (None, "cannot be read"),
    ],
)
def test_a_damaged_table_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"table\.csv {words}.*; {READABLE}$"):
        csv_files.read(path, ("name",), READABLE)


def test_a_full_disk_is_named(tmp_path):
    (tmp_path / "table.csv").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device.*table\.csv"):
        csv_files.write(tmp_path / "table.csv", ("name",), [["a"]])


def test_plain_text_is_what_json_takes():
    assert json.loads(json.dumps(csv_files.to_utf8("caf\udce9"))).encode() == b"caf\\udce9"
