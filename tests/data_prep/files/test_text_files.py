import pathlib

import pytest

from data_prep.cli import UserError
from data_prep.files.text_files import read_json, read_json_lines, replace_text


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a": 1}]']
)
def test_a_broken_file_is_named_with_what_to_do(tmp_path: pathlib.Path, content):
    path = tmp_path / "manifest.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json .*; prepare the data again$"):
        read_json(path, "prepare the data again")


def test_what_was_written_is_read(tmp_path):
    replace_text(tmp_path / "a.json", '{"é": 1}\n')
    assert read_json(tmp_path / "a.json", "") == {"é": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_of_lines_the_one_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a')
    assert read_json_lines(path, "") == [{"a": 1}, {"a": 2}]
    path.write_text("")
    assert read_json_lines(path, "") == []
