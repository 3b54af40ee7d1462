import os

import pytest
from etils import epath

from data_prep.cli import UserError
from data_prep.dicom import DicomRefusal
from data_prep.tables.files import ImageFolder


@pytest.fixture
def folder(tmp_path):
    raw = tmp_path / "raw"
    for name in (
        "a.png",
        "b b.dcm",
        "10:30.png",
        "sub/c.JPG",
        "sub/notes.txt",
        "x/same.png",
        "y/same.png",
    ):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(b"")
    (tmp_path / "away" / "deep").mkdir(parents=True)
    (tmp_path / "away" / "1.png").write_bytes(b"")
    (raw / "out.png").symlink_to(tmp_path / "secret.png")
    (raw / "store").symlink_to(tmp_path / "away")
    (raw / "sub" / "round").symlink_to(raw)
    (tmp_path / "away" / "deep" / "round").symlink_to("..")
    (raw / "loop.png").symlink_to("loop.png")
    (raw / "again").symlink_to(raw / "sub")
    (raw / "x" / "round").symlink_to("../y")
    (raw / "y" / "round").symlink_to("../x")
    (raw / "in.png").symlink_to(raw / "a.png")
    return ImageFolder(epath.Path(raw))


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("a.png", "a.png"),
        ("./a", "a.png"),
        ("b b", "b b.dcm"),
        ("10:30", "10:30.png"),
        ("sub/c", "sub/c.JPG"),
        ("sub\\c.JPG", "sub/c.JPG"),
        ("c", "again/c.JPG"),  # which is sub/c.JPG
        ("x/same", "x/same.png"),
        ("in.png", "in.png"),
        ("out.png", "out.png"),
        ("store/1", "store/1.png"),
        ("again/notes.txt", "again/notes.txt"),
    ],
)
def test_the_file_that_a_cell_means(folder, cell, name):
    assert folder.find(cell) == name


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("", "no_file"),
        (".", "no_file"),
        ("none.png", "no_file"),
        ("A.png", "no_file"),
        ("notes", "no_file"),
        ("../secret.png", "outside_folder"),
        ("sub/../../secret.png", "outside_folder"),
        ("/etc/passwd", "outside_folder"),
        ("C:\\images\\a.png", "outside_folder"),
        ("same", "duplicate"),
    ],
)
def test_what_is_refused(folder, cell, code):
    with pytest.raises(DicomRefusal) as refusal:
        folder.find(cell)
    assert refusal.value.code == code


def test_links_are_followed_but_not_in_circles(folder):
    assert {"out.png", "store/1.png", "loop.png"} <= set(folder.names)
    assert [name for name in folder.names if "round/" in name] == [
        "x/round/same.png",
        "y/round/same.png",
    ]


def test_a_folder_that_cannot_be_listed(folder, monkeypatch):
    def scandir(path, scandir=os.scandir):
        if str(path).endswith("x"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="raw/x"):
        ImageFolder(folder.root)


def test_no_folder_and_an_empty_one(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        ImageFolder(epath.Path(tmp_path / "none"))
    with pytest.raises(UserError, match="no file"):
        ImageFolder(epath.Path(tmp_path))
