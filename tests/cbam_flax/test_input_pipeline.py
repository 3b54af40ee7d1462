import json
import shutil

import jax
import numpy as np
import pytest

from cbam_flax import decoded_cache, input_pipeline, sharding
from cbam_flax.input_pipeline import Order, Split, load_split, with_variant
from data_prep.cli import UserError

LABELS = np.int32([0, 0, 0, 1, 0, 0, 1, 0, 0, 0])


def load(data_dir, split="train", dataset="pneumonia_mnist", size=28):
    return load_split(str(data_dir), dataset, size, split)


def a_split(labels):
    columns = {"label": np.int32(labels), "image_id": np.array([f"id{i}" for i in labels])}
    return Split("train", np.zeros((len(labels), 4, 4), np.uint8), columns, {})


@pytest.fixture
def copy_of_data(prepared, tmp_path):
    """A copy that a test may break; without the decoded cache."""
    shutil.copytree(prepared, tmp_path / "data", ignore=shutil.ignore_patterns("decoded-*"))
    return tmp_path / "data"


def test_a_split_comes_back_in_order_with_all_its_columns(prepared):
    split = load(prepared)
    assert split.images.shape == (70, 28, 28)
    assert split.images.dtype == np.uint8
    names = "label image_id patient_id view sex age spacing detailed_class boxes"
    assert set(split.columns) == set(names.split())
    assert list(split.columns["image_id"]) == sorted(split.columns["image_id"])
    # The blob of the positives is where the fixture put it.
    region = split.images[:, 16:21, 7:12].mean(axis=(1, 2))
    assert region[split.labels == 1].min() > region[split.labels == 0].max()


def test_a_second_load_reads_the_cache_and_gives_the_same(prepared, monkeypatch):
    first = load(prepared, "test")
    monkeypatch.setattr(decoded_cache, "_decode", None)  # would raise if it were called
    second = load(prepared, "test")
    np.testing.assert_array_equal(first.images, second.images)
    for name, column in first.columns.items():
        assert len(column) == len(second.columns[name]) == 21


def test_decoding_brings_no_notice_of_a_library(copy_of_data, caplog):
    load(copy_of_data)
    assert [record.getMessage() for record in caplog.records] == []


def test_missing_data_names_the_folder_and_what_is_there(prepared):
    with pytest.raises(UserError, match=r"rsna_pneumonia.*holds pneumonia_mnist/28px"):
        load(prepared, dataset="rsna_pneumonia")
    with pytest.raises(UserError, match=r"holds pneumonia_mnist/28px.*never enlarged"):
        load(prepared, size=64)
    with pytest.raises(UserError, match=r"holds images of 28 px, config.image_size is 64.*never"):
        load(prepared, dataset="pneumonia_mnist/28px", size=64)


@pytest.mark.parametrize(
    ("dataset", "size", "taken"),
    [
        ("films", 64, "films"),
        ("films", 63, "films/64px"),
        ("films", 65, "films/128px"),
        ("films", 200, "films/1024px"),
        ("films", 2048, "films"),  # which `record_dir` does not find
        ("films/1024px", 64, "films/1024px"),
        ("films/256px-row", 64, "films/256px-row"),
        ("others", 64, "others"),
    ],
)
def test_a_name_stands_for_its_smallest_variant_that_is_large_enough(
    tmp_path, dataset, size, taken
):
    for variant in ("64px", "128px", "1024px", "256px-row", "256px-squash", "notespx"):
        folder = tmp_path / "films" / variant / "1.0.0"
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
    (tmp_path / "films" / "65px" / "1.0.0").mkdir(parents=True)  # not finished
    assert with_variant(str(tmp_path), dataset, size) == taken


def test_a_corrupt_record_is_named(copy_of_data):
    [record] = copy_of_data.glob("pneumonia_mnist/28px/*/*train.tfrecord*")
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 0xFF
    record.write_bytes(content)
    with pytest.raises(UserError, match=record.name):
        load(copy_of_data)
    assert not list(copy_of_data.glob("**/images.npy")), "a broken decode left a cache behind"


def test_an_empty_split_is_refused(copy_of_data):
    [manifest] = copy_of_data.glob("pneumonia_mnist/28px/*/manifest.json")
    content = json.loads(manifest.read_text())
    content["splits"]["train"]["images"] = 0
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"split 'train' .* is empty"):
        load(copy_of_data)


def test_shuffled_labels_are_the_same_ones_on_other_images():
    split = a_split(np.arange(50) % 2)
    shuffled = split.with_shuffled_labels(np.random.default_rng(0))
    assert shuffled.labels.sum() == split.labels.sum() == 25
    assert 10 < np.sum(shuffled.labels != split.labels) < 40
    assert shuffled.columns["image_id"] is split.columns["image_id"]


def test_each_epoch_holds_every_example_once_though_batches_straddle_epochs():
    order = Order(LABELS, batch_size=4, seed=0)
    stream = np.concatenate([order.batch(step) for step in range(5)])
    for epoch in (stream[:10], stream[10:]):
        assert sorted(epoch) == list(range(10))
    assert list(stream[:10]) != list(stream[10:])


def test_a_batch_is_a_function_of_seed_and_step_alone():
    walked = Order(LABELS, 4, seed=0)
    for step in range(1000):
        walked.batch(step)
    np.testing.assert_array_equal(walked.batch(1000), Order(LABELS, 4, seed=0).batch(1000))
    assert list(Order(LABELS, 4, seed=1).batch(1000)) != list(walked.batch(1000))


def test_a_batch_larger_than_the_data_takes_several_epochs():
    counts = np.bincount(Order(LABELS, 25, seed=0).batch(0))
    assert counts.sum() == 25
    assert set(counts) == {2, 3}


def test_balanced_epochs_are_half_positive_and_lose_no_example():
    order = Order(LABELS, 16, seed=0, sampling="balanced")
    batch = order.batch(0)
    assert order.epoch_size == 16
    assert LABELS[batch].mean() == 0.5
    assert set(batch) == set(range(10))


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_batches_arrive_whole_and_where_the_mesh_says(shape):
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, shape, strict=True)))
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4), np.uint8)
    split = Split("train", images, {"label": LABELS}, {})
    order = Order(LABELS, 8, seed=0)
    batches = list(input_pipeline.train_batches(split, order, mesh, start=3, stop=7))
    assert len(batches) == 4
    for step, batch in enumerate(batches, 3):
        np.testing.assert_array_equal(batch["image"], images[order.batch(step)])
        np.testing.assert_array_equal(batch["label"], LABELS[order.batch(step)])
        abstract = input_pipeline.abstract_batch(8, 4, mesh)
        for name, array in batch.items():
            assert array.sharding == abstract[name].sharding
            assert (array.shape, array.dtype) == (abstract[name].shape, abstract[name].dtype)
    pieces = {shard.data.shape for shard in batches[0]["image"].addressable_shards}
    assert pieces == {(8 // (shape[0] * shape[1]), 4 // shape[2], 4)}


def test_a_broken_image_store_reaches_the_caller():
    mesh = sharding.make_mesh({"data": 8, "fsdp": 1, "spatial": 1})
    split = Split("train", np.zeros((2, 4, 4), np.uint8), {"label": LABELS}, {})
    with pytest.raises((IndexError, jax.errors.JaxRuntimeError)):
        list(input_pipeline.train_batches(split, Order(LABELS, 8, 0), mesh, start=0, stop=1))


def several(labels, name="validation"):
    columns = {"label": np.int32(labels)}
    images = np.zeros((len(labels), 4, 4), np.uint8)
    return Split(name, images, columns, {"findings": ["Mass", "Hernia"]})


def test_batches_of_several_findings_arrive_whole():
    mesh = sharding.make_mesh({"data": 4, "fsdp": 1, "spatial": 2})
    labels = np.random.default_rng(0).integers(-1, 2, (10, 3)).astype(np.int32)
    images = np.zeros((10, 4, 4), np.uint8)
    indices = np.array([7, 1, 1, 4])
    batch = input_pipeline.put_batch(images, labels, indices, mesh)
    np.testing.assert_array_equal(batch["label"], labels[indices])
    abstract = input_pipeline.abstract_batch(4, 4, mesh, findings=3)["label"]
    assert (batch["label"].shape, batch["label"].sharding) == (abstract.shape, abstract.sharding)


def test_the_labels_of_an_image_are_shuffled_together():
    split = several([[0, 1], [1, 0], [-1, 1], [0, 0]] * 10)
    shuffled = split.with_shuffled_labels(np.random.default_rng(0))
    assert sorted(map(tuple, shuffled.labels)) == sorted(map(tuple, split.labels))
    assert (shuffled.labels != split.labels).any()
