import os

import pytest
from etils import epath

from data_prep.cli import UserError
from data_prep.tables import folders
from data_prep.tables.files import ImageFolder

KERMANY = r"(person\d+)|((?:NORMAL2-)?IM-\d+)"


def read(root, names, patient_from=KERMANY):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return folders.read_folders(ImageFolder(epath.Path(root)), patient_from).to_dict("records")


def test_splits_classes_and_patients(tmp_path):
    rows = read(
        tmp_path,
        [
            "train/PNEUMONIA/person605_bacteria_2465.jpeg",
            "train/NORMAL/NORMAL2-IM-0936-0001.jpeg",
            "test/NORMAL/IM-0505-0001-0002.jpeg",
            "test/NORMAL/who.jpeg",
            "train/.DS_Store",
            "README.md",
        ],
    )
    assert [(row["split"], row["class"], row["patient"]) for row in rows] == [
        ("test", "NORMAL", "IM-0505"),
        ("test", "NORMAL", ""),
        ("train", "NORMAL", "NORMAL2-IM-0936"),
        ("train", "PNEUMONIA", "person605"),
    ]


def test_without_splits_and_without_a_group(tmp_path):
    rows = read(tmp_path, ["NORMAL/p1_1.png", "TB/deep/p2_1.png"], r"p\d+")
    assert [(row["split"], row["class"], row["patient"]) for row in rows] == [
        ("", "NORMAL", "p1"),
        ("", "TB", "p2"),
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/NORMAL/a.png", "more/TB/b.png"], "train, which are splits, and more"),
        (["a.png"], "in a folder that names its class"),
    ],
)
def test_other_layouts(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, names)


def test_the_positive_class():
    assert folders.positive_class(["NORMAL", "TB"], "") == "TB"
    assert folders.positive_class(["a", "b", "c"], "b") == "b"
    for classes, said in ((["a", "b"], ""), (["NORMAL", "a", "b"], ""), (["a", "b"], "c")):
        with pytest.raises(UserError, match="--positive"):
            folders.positive_class(classes, said)


def test_names_that_are_not_utf8(tmp_path):
    (row,) = read(tmp_path, [os.fsdecode(b"r\xe9sultat/p\xe91.png")], "p.")
    assert (row["class"], row["patient"]) == ("r\\udce9sultat", "p\\udce9")
    assert os.fsencode(row["image"]) == b"r\xe9sultat/p\xe91.png"
