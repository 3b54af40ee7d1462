import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

import data_prep.rsna_pneumonia
from data_prep import mapping
from data_prep.radiographs import Preprocessing
from data_prep.record_builder import RecordConfig

# A bare age is what the challenge has.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")


@pytest.mark.parametrize(
    ("name", "preprocessing", "scheme"),
    [
        ("256px", Preprocessing(), "patient"),
        ("256px-image", Preprocessing(), "image"),
        ("96px-row", Preprocessing(96), "row"),
        ("224px-row-squash-nearest", Preprocessing(224, "squash", "nearest"), "row"),
        ("64px-novoi", Preprocessing(64, voi="none"), "patient"),
    ],
)
def test_names_of_variants(name, preprocessing, scheme):
    assert RecordConfig.of(preprocessing, scheme).name == name


def test_tfds_load_for_a_user_who_only_knows_tfds(rsna_folder, tmp_path):
    shutil.move(rsna_folder / "mapping.json", rsna_folder / mapping.NAME)
    config = tfds.download.DownloadConfig(manual_dir=rsna_folder)
    splits, info = tfds.load(
        "rsna_pneumonia/64px",
        data_dir=tmp_path / "data",
        download_and_prepare_kwargs={"download_config": config},
        as_supervised=True,
        with_info=True,
    )
    assert set(splits) == {"train", "validation", "test"}
    image, label = next(iter(tfds.as_numpy(splits["train"])))
    assert (image.shape, image.dtype) == ((64, 64, 1), np.uint8)
    assert label in (0, 1)
    assert info.features["label"].names == ["no pneumonia", "pneumonia"]
    assert "Shih" in info.citation
    assert "11,439" in info.description
    assert "RSNA" in info.redistribution_info.license
    # And again, where the images are not there any more.
    again = tfds.load("rsna_pneumonia/64px", data_dir=tmp_path / "data", split="test")
    assert len(again) == info.splits["test"].num_examples


def test_rows_put_one_image_into_several_records(rsna_folder, tmp_path):
    builder = data_prep.rsna_pneumonia.Builder(
        config=RecordConfig.of(Preprocessing(32), "row"), data_dir=tmp_path / "data"
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=rsna_folder)
    )
    ids = [
        record["image_id"].decode()
        for split in builder.info.splits
        for record in tfds.as_numpy(builder.as_dataset(split=split))
    ]
    assert len(ids) == len(set(ids)) == 47  # 40 images, 7 of them with a second box
    assert len({name.split("#")[0] for name in ids}) == 40


def test_a_mapping_that_is_not_the_official_one_is_not_downloaded_in_silence(rsna_folder, tmp_path):
    class Downloads:
        manual_dir = rsna_folder

        def download(self, url):
            assert url == mapping.URL
            return rsna_folder / "mapping.json"

    builder = data_prep.rsna_pneumonia.Builder(config="64px", data_dir=tmp_path / "data")
    with pytest.raises(ValueError, match="official SHA-256"):
        builder._split_generators(Downloads())
