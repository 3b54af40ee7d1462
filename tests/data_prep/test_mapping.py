import hashlib
import io
import json

import pytest

from data_prep import mapping
from data_prep.cli import UserError


def write(path, pairs):
    path.write_text(json.dumps([{"subset_img_id": a, "img_id": b} for a, b in pairs]))
    return path


def test_the_patient_is_in_the_name_of_the_nih_file(tmp_path):
    path = write(tmp_path / "m.json", [("a", "00000007_000.png"), ("b", "00000007_012.png")])
    assert mapping.read_mapping(path) == {"a": "00000007", "b": "00000007"}


def test_an_image_of_two_patients_has_none(tmp_path):
    pairs = [("a", "00000007_000.png"), ("a", "00000008_000.png"), ("a", "00000007_000.png")]
    assert mapping.read_mapping(write(tmp_path / "m.json", pairs)) == {"a": ""}


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"a": 1}', '[{"img_id": "1"}]', "3"])
def test_what_is_no_mapping(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UserError, match="not the challenge's mapping"):
        mapping.read_mapping(tmp_path / "m.json")


def test_an_empty_mapping_is_named(tmp_path):
    with pytest.raises(UserError, match=r"m\.json maps no image to a patient"):
        mapping.read_mapping(write(tmp_path / "m.json", []))


def test_no_mapping(tmp_path):
    with pytest.raises(UserError, match="no file"):
        mapping.find_mapping(str(tmp_path / "none.json"), str(tmp_path))


def test_another_mapping_is_used_with_a_warning(tmp_path, capsys):
    path = write(tmp_path / "m.json", [])
    assert mapping.find_mapping(str(path), str(tmp_path)) == path
    assert "not the official mapping" in capsys.readouterr().err


def test_the_mapping_of_synthetic_images_needs_no_warning(tmp_path, capsys):
    path = write(tmp_path / "m.json", [])
    (tmp_path / mapping.SYNTHETIC_MARK).touch()
    assert mapping.find_mapping(str(path), str(tmp_path)) == path
    assert capsys.readouterr().err == ""


def test_the_official_mapping_is_downloaded_once_and_checked(tmp_path, monkeypatch, capsys):
    content = b"[]"
    calls = []

    def open_url(url, timeout):
        calls.append(url)
        return io.BytesIO(content)

    monkeypatch.setattr(mapping.urllib.request, "urlopen", open_url)
    with pytest.raises(UserError, match="official SHA-256"):
        mapping.find_mapping("download", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(mapping, "SHA256", hashlib.sha256(content).hexdigest())
    first = mapping.find_mapping("download", str(tmp_path))
    assert first.read_bytes() == content
    assert mapping.find_mapping("download", str(tmp_path)) == first
    assert calls == [mapping.URL, mapping.URL]
    assert capsys.readouterr().err == ""


def test_no_internet(tmp_path, monkeypatch):
    def open_url(url, timeout):
        raise OSError("no route to host")

    monkeypatch.setattr(mapping.urllib.request, "urlopen", open_url)
    with pytest.raises(UserError, match="--mapping=FILE"):
        mapping.find_mapping("download", str(tmp_path))
