import hashlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_prep.cli import UserError
from data_prep.pneumonia_mnist import pneumonia_mnist_dataset_builder as mnist


@pytest.fixture
def archive(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 9), ("val", 4), ("test", 5)):
        arrays[f"{name}_images"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{name}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez(tmp_path / "archive.npz", **arrays)
    return tmp_path / "archive.npz"


def test_the_official_splits_come_through(archive, tmp_path):
    builder = mnist.Builder(config="28px", data_dir=tmp_path / "data", archive=str(archive))
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


def test_it_is_downloaded_from_the_official_url_and_checked(archive, tmp_path, monkeypatch):
    class Downloads:
        def download(self, url):
            assert url == mnist.URL
            return archive

    builder = mnist.Builder(config="28px", data_dir=tmp_path / "data")
    with pytest.raises(ValueError, match=f"not the official {mnist.MD5}"):
        builder._split_generators(Downloads())
    monkeypatch.setattr(mnist, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert set(builder._split_generators(Downloads())) == {"train", "validation", "test"}


def test_what_is_no_archive(archive, tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        mnist.read_archive(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match="not a PneumoniaMNIST archive"):
        mnist.read_archive(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(UserError, match="not a PneumoniaMNIST archive"):
        mnist.read_archive(tmp_path / "other.npz")
    arrays = dict(np.load(archive)) | {"train_images": np.zeros((9, 64, 64), np.uint8)}
    np.savez(tmp_path / "large.npz", **arrays)
    with pytest.raises(UserError, match="28, 28"):
        mnist.read_archive(tmp_path / "large.npz")


def test_the_real_archive(shared_data):
    splits = mnist.read_archive(shared_data / "pneumoniamnist" / "pneumoniamnist.npz")
    assert {split: len(labels) for split, (_, labels) in splits.items()} == {
        "train": 4708,
        "validation": 524,
        "test": 624,
    }
