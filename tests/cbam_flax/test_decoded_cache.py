import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from etils import epath

from cbam_flax import decoded_cache
from cbam_flax.input_pipeline import load_split
from data_prep.cli import UserError
from data_prep.manifest import SPLIT_SUMMARY

SPLIT = "test"  # the smallest


@pytest.fixture(scope="module")
def decoded_once(prepared, tmp_path_factory):
    """A data_dir of its own with a decoded split."""
    data = tmp_path_factory.mktemp("decoded") / "data"
    shutil.copytree(prepared, data, ignore=shutil.ignore_patterns("decoded-*"))
    load(data)
    return data


@pytest.fixture
def data(decoded_once, tmp_path):
    """A copy that a test may break; its files keep their times."""
    return shutil.copytree(decoded_once, tmp_path / "data")


def load(data_dir, size=28):
    return load_split(str(data_dir), "pneumonia_mnist", size, SPLIT)


def cache_of(data_dir) -> pathlib.Path:
    """That of the records' own size."""
    [cache] = data_dir.glob(f"pneumonia_mnist/28px/*/decoded-v1/{SPLIT}-{16 * '[0-9a-f]'}")
    return cache


def record_of(data_dir, split=SPLIT) -> pathlib.Path:
    [record] = data_dir.glob(f"pneumonia_mnist/28px/*/*-{split}.tfrecord*")
    return record


def flip(path, share):
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 4
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a failing disk does


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def test_a_sound_cache_is_opened_without_decoding(data, monkeypatch, capsys):
    monkeypatch.setattr(decoded_cache, "_decode", None)  # would raise if it were called
    assert len(load(data)) == 21
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("share", [0, 0.3, 0.99])
@pytest.mark.parametrize("name", ["images.npy", "columns.npz", "check.json"])
def test_a_damaged_cache_is_noticed(data, name, share, damage):
    folder = epath.Path(record_of(data).parent)
    said = json.loads((folder / "manifest.json").read_text())["splits"][SPLIT]
    summary = {key: said[key] for key in SPLIT_SUMMARY}
    assert decoded_cache._doubt(cache_of(data), folder, SPLIT, summary) is None
    damage(cache_of(data) / name, share)
    assert decoded_cache._doubt(cache_of(data), folder, SPLIT, summary)


def test_smaller_images_are_averages_with_a_cache_of_their_own(data, monkeypatch, capsys):
    large, small = load(data), load(data, 14)
    mean = large.images.reshape(21, 14, 2, 14, 2).mean(axis=(2, 4))
    assert np.abs(small.images - mean).max() <= 0.5
    assert small.images.shape == (21, 14, 14)
    assert small.fingerprint == large.fingerprint
    np.testing.assert_array_equal(small.columns["image_id"], large.columns["image_id"])
    own = cache_of(data).with_name(cache_of(data).name + "-14px")
    assert {path.name for path in own.parent.iterdir()} == {cache_of(data).name, own.name}
    with monkeypatch.context() as patched:
        patched.setattr(decoded_cache, "_decode", None)  # would raise if it were called
        assert load(data, 14).images.shape[1:] == (14, 14)
        assert load(data).images.shape[1:] == (28, 28)
    images = small.images.copy()
    flip(own / "images.npy", 0.5)
    load(data)
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(load(data, 14).images, images)
    assert "has changed since it was written" in capsys.readouterr().err


def test_a_cache_of_another_size_is_not_taken(data, capsys):
    load(data, 14)
    own = cache_of(data).with_name(cache_of(data).name + "-14px")
    shutil.copytree(own, own.with_name(own.name.replace("14px", "7px")))
    assert load(data, 7).images.shape[1:] == (7, 7)
    assert "decoding test again" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["images.npy", "check.json"])
def test_a_doubtful_cache_is_decoded_again_and_it_is_told(data, capsys, name):
    before = load(data)
    images = before.images.copy()
    (cache_of(data) / name).unlink()
    again = load(data)
    assert f"decoding {SPLIT} again" in capsys.readouterr().err
    np.testing.assert_array_equal(again.images, images)
    np.testing.assert_array_equal(again.labels, before.labels)
    load(data)
    assert capsys.readouterr().err == ""
    assert [path.name for path in cache_of(data).parent.iterdir()] == [cache_of(data).name]


def test_records_replaced_later_are_refused(data):
    """Those of another split, whole and sound, under the names of this one."""
    shutil.copy(record_of(data, "validation"), record_of(data))
    with pytest.raises(UserError) as told:
        load(data)
    assert "not those that manifest.json there describes" in str(told.value)
    assert "content_sha256" in str(told.value)
    assert not list(cache_of(data).parent.glob(".*"))


def test_records_that_were_only_touched_are_decoded_again(data, capsys):
    record_of(data).touch()
    assert len(load(data)) == 21
    assert "have changed since" in capsys.readouterr().err


def test_a_missing_record_file_is_named(data):
    record_of(data).unlink()
    with pytest.raises(UserError, match=r"a record of .* cannot be read"):
        load(data)


def test_data_that_cannot_be_written_are_decoded_into_the_users_own_folder(
    data, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    shutil.rmtree(cache_of(data))
    load(data)
    [images] = tmp_path.glob("own/cbam_flax/decoded-v1/*/*/images.npy")
    assert images.parent.stat().st_mode & 0o077 == 0


def test_of_two_that_decode_at_once_the_second_keeps_what_the_first_put_there(tmp_path):
    cache = tmp_path / "cache"
    for name in ("first", "second"):
        draft = tmp_path / name
        draft.mkdir()
        (draft / "images.npy").write_text(name)
        decoded_cache._put_in_place(draft, cache, lambda: True)
    assert (cache / "images.npy").read_text() == "first"
    decoded_cache._put_in_place(tmp_path / "second", cache, lambda: False)
    assert (cache / "images.npy").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
