import hashlib
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_prep import prepare
from data_prep.cli import UserError
from data_prep.pneumonia_mnist import pneumonia_mnist_dataset_builder as mnist


def write_archive(path, size):
    rng = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 9), ("val", 4), ("test", 5)):
        arrays[f"{name}_images"] = rng.integers(0, 256, (count, size, size), np.uint8)
        arrays[f"{name}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez(path, **arrays)
    return path


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path / "archive.npz", 28)


@pytest.mark.parametrize(
    ("size", "file"), [(28, "pneumoniamnist.npz"), (64, "pneumoniamnist_64.npz")]
)
def test_the_official_splits_come_through(tmp_path, size, file):
    archive = write_archive(tmp_path / "archive.npz", size)
    builder = mnist.Builder(config=f"{size}px", data_dir=tmp_path / "data", archive=str(archive))
    builder.download_and_prepare()
    official = np.load(archive)
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        records = {
            record["image_id"].decode(): record
            for record in tfds.as_numpy(builder.as_dataset(split=split))
        }
        assert sorted(records) == [
            f"{split}-{n:05d}" for n in range(len(official[f"{name}_labels"]))
        ]
        images = np.stack([records[image_id]["image"][..., 0] for image_id in sorted(records)])
        np.testing.assert_array_equal(images, official[f"{name}_images"])
        labels = [records[image_id]["label"] for image_id in sorted(records)]
        np.testing.assert_array_equal(labels, official[f"{name}_labels"][:, 0])
    assert len(builder.outcomes) == 18
    assert {outcome["file"] for outcome in builder.outcomes} == {file}


@pytest.mark.parametrize("size", [28, 64, 128, 224])
def test_it_is_downloaded_from_the_official_url_and_checked(archive, tmp_path, monkeypatch, size):
    class Downloads:
        def download(self, url):
            suffix = "" if size == 28 else f"_{size}"
            assert url == f"{mnist.RECORD}/files/pneumoniamnist{suffix}.npz?download=1"
            return archive

    builder = mnist.Builder(config=f"{size}px", data_dir=tmp_path / "data")
    with pytest.raises(ValueError, match=f"not the official {mnist.MD5[size]}"):
        builder._split_generators(Downloads())
    monkeypatch.setitem(mnist.MD5, size, hashlib.md5(archive.read_bytes()).hexdigest())
    assert set(builder._split_generators(Downloads())) == {"train", "validation", "test"}


def test_the_size_is_that_of_the_file(tmp_path, monkeypatch, capsys):
    raw = write_archive(tmp_path / "any_name.npz", 128)
    monkeypatch.setattr(
        "sys.argv",
        ["prepare", "--dataset=pneumonia_mnist", f"--raw={raw}", f"--data_dir={tmp_path}"],
    )
    prepare.main()
    [path] = tmp_path.glob("pneumonia_mnist/128px/*/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["preprocessing"]["image_size"] == 128
    assert [split["images"] for split in manifest["splits"].values()] == [9, 4, 5]


def test_what_is_no_archive(archive, tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        mnist.read_archive(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match="not a PneumoniaMNIST archive"):
        mnist.read_archive(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(UserError, match="not a PneumoniaMNIST archive"):
        mnist.read_archive(tmp_path / "other.npz")
    for shape in ((9, 64, 64), (9, 32, 32), (8, 28, 28), (9, 28, 28, 3)):  # 64: the others have 28
        arrays = dict(np.load(archive)) | {"train_images": np.zeros(shape, np.uint8)}
        np.savez(tmp_path / "other.npz", **arrays)
        with pytest.raises(UserError, match="one of 28, 64, 128, 224"):
            mnist.read_archive(tmp_path / "other.npz")


def test_the_real_archive(shared_data):
    splits = mnist.read_archive(shared_data / "pneumoniamnist" / "pneumoniamnist.npz")
    assert {split: len(labels) for split, (_, labels) in splits.items()} == {
        "train": 4708,
        "validation": 524,
        "test": 624,
    }
