import os
import pathlib

import numpy as np
import pytest

from cbam_flax.predict import reader
from data_prep.cli import UserError
from data_prep.grey_range import grey_range
from data_prep.resize import fit_image, shrink

PREPROCESSING = {"image_size": 32, "aspect": "letterbox", "interpolation": "area", "voi": "first"}
GRADIENT = np.arange(64 * 32, dtype=np.uint16).reshape(64, 32) * 30


def touch(path: pathlib.Path) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def names(sources: list[reader.Source]) -> list[str]:
    return [source.path.name for source in sources]


def test_folders_are_searched_deep_and_sorted_without_hidden_files(tmp_path):
    for name in ("b.dcm", "a/z", "a/c.dcm", ".DS_Store", ".git/x"):
        touch(tmp_path / name)
    found = reader.find_files([tmp_path])
    assert names(found) == ["c.dcm", "z", "b.dcm"]
    assert [source.index for source in found] == [0, 1, 2]


def test_a_file_named_twice_is_taken_once_and_the_given_order_stays(tmp_path):
    first, second = touch(tmp_path / "z.dcm"), touch(tmp_path / "a.dcm")
    (tmp_path / "link.dcm").symlink_to(first)
    found = reader.find_files([first, tmp_path, second])
    assert names(found) == ["z.dcm", "a.dcm"]


def test_equal_stems_get_names_of_their_own(tmp_path):
    for name in ("1/image.dcm", "2/image.dcm", "other.dcm"):
        touch(tmp_path / name)
    ids = [source.image_id for source in reader.find_files([tmp_path])]
    assert len(set(ids)) == 3
    assert "other" in ids
    assert all(id.startswith("image-") for id in ids if id != "other")


def test_missing_and_empty_paths_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.dcm does not exist"):
        reader.find_files([tmp_path / "nowhere.dcm"])
    with pytest.raises(UserError, match="there is no file in"):
        reader.find_files([tmp_path])


def test_what_is_no_file_is_refused_by_name_and_stops_nothing(tmp_path, write_dicom):
    folder = tmp_path / "in"
    (folder / "folder.dcm").mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("pipe")
    (folder / "device").symlink_to("/dev/zero")
    (folder / "dangling").symlink_to("gone.dcm")
    (folder / "loop").symlink_to("loop")
    (folder / "parent").symlink_to(".")  # a folder that holds itself
    write_dicom(folder / "folder.dcm" / "image.dcm", GRADIENT)
    sources = reader.find_files([folder, folder / "link", folder / "loop"])
    tasks = [reader.Task(source, PREPROCESSING, with_panel=False) for source in sources]
    results = {item.source.path.name: item for item in reader.read_files(tasks, 0)}
    assert isinstance(results.pop("image.dcm"), reader.Decoded)
    assert {name: item.refusal.code for name, item in results.items()} == {
        "link": "not_a_file",
        "device": "not_a_file",
        "dangling": "unreadable",
        "loop": "unreadable",
    }


def test_a_folder_that_cannot_be_listed_is_refused_by_name(tmp_path, monkeypatch):
    touch(tmp_path / "in" / "image.dcm")
    touch(tmp_path / "in" / "locked" / "image.dcm")
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(reader.find_files([tmp_path])) == ["image.dcm", "locked"]


class Bomb:
    """Ends the process that unpickles it, as a file may that crashes a decoder."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_single_file_that_crashes_the_decoder_is_a_refusal():
    task = reader.Task(reader.Source(0, "bomb", Bomb()), PREPROCESSING, with_panel=False)
    [refused] = reader.read_files([task], workers=2)
    assert refused.refusal.code == "crashed"


def test_an_image_is_read_as_it_is_for_training_and_says_where_it_lies(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "image.dcm", GRADIENT)
    source = reader.Source(7, "image", path)
    decoded = reader.read_file(reader.Task(source, PREPROCESSING, with_panel=True))
    assert isinstance(decoded, reader.Decoded)
    assert decoded.source == source
    assert decoded.header["view_position"] == "PA"
    np.testing.assert_allclose(decoded.box, [0, 0.25, 1, 0.75])
    assert not decoded.square[:, :8].any()
    # Each cell is the mean of 2 x 2 pixels, in 255ths of the full range.
    expected = GRADIENT.reshape(32, 2, 16, 2).mean((1, 3)) / 257
    np.testing.assert_allclose(decoded.square[:, 8:24], expected, atol=1)
    assert decoded.panel.shape == (768, 384)
    assert reader.read_file(reader.Task(source, PREPROCESSING, with_panel=False)).panel is None


def test_an_image_is_shrunk_from_the_size_that_was_prepared(tmp_path, write_dicom):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    path = write_dicom(tmp_path / "image.dcm", noise)
    preprocessing = PREPROCESSING | {"image_size": 12, "prepared_size": 32}
    task = reader.Task(reader.Source(0, "image", path), preprocessing, with_panel=False)
    decoded = reader.read_file(task)
    prepared = fit_image(noise, 32)[0]
    np.testing.assert_array_equal(decoded.square, shrink(prepared, 12))
    assert (decoded.square != fit_image(noise, 12)[0]).any()
    assert decoded.greys == grey_range(prepared) != grey_range(decoded.square)
    np.testing.assert_allclose(decoded.box, [0, 0, 1, 1])


def test_refusals_keep_their_codes_and_stop_nothing(tmp_path, write_dicom):
    good = write_dicom(tmp_path / "good.dcm", GRADIENT)
    text = tmp_path / "page.html"
    text.write_text("<html>" * 100)
    flat = write_dicom(tmp_path / "flat.dcm", np.full((8, 8), 5, np.uint8))
    tasks = [
        reader.Task(reader.Source(i, path.stem, path), PREPROCESSING, with_panel=False)
        for i, path in enumerate([good, text, flat, tmp_path / "gone.dcm"])
    ]
    for workers in (0, 2):
        results = {item.source.index: item for item in reader.read_files(tasks, workers)}
        assert isinstance(results[0], reader.Decoded)
        codes = [results[i].refusal.code for i in (1, 2, 3)]
        assert codes == ["not_dicom", "constant", "unreadable"]


def test_map_ahead_keeps_the_order_and_its_bound():
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = reader.map_ahead(lambda i: i * i, items(), workers=4, ahead=5)
    for i in range(100):
        assert next(results) == i * i
        assert len(taken) == min(i + 1 + 5, 100)
    assert list(results) == []


def test_map_ahead_passes_an_error_on_in_its_place():
    results = reader.map_ahead(lambda x: 1 / x, [1, 2, 0, 4], workers=2, ahead=4)
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_batches_lose_nothing():
    assert list(reader.batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(reader.batches([], 2)) == []
