import fcntl
import json
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

import data_prep.rsna_pneumonia
from data_prep import rsna
from data_prep.cli import UserError
from data_prep.preparation import prepare_once
from data_prep.radiographs import Preprocessing

# A bare age is what the challenge has.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")

CONFIG = data_prep.rsna_pneumonia.RsnaConfig.of(Preprocessing(image_size=32))


def prepare(raw, data_dir, *, max_rejected=0.0, overwrite=False, workers=0):
    builder = data_prep.rsna_pneumonia.Builder(
        config=CONFIG, data_dir=data_dir, mapping_file=str(raw / "mapping.json"), workers=workers
    )
    prepare_once(
        builder,
        settings={"split_scheme": "patient", "preprocessing": vars(CONFIG.preprocessing)},
        tables=[epath.Path(raw / rsna.LABELS), epath.Path(raw / rsna.CLASSES)],
        films=rsna.list_images(epath.Path(raw)),
        download_config=tfds.download.DownloadConfig(manual_dir=raw),
        max_rejected=max_rejected,
        overwrite=overwrite,
    )
    return json.loads((epath.Path(builder.data_dir) / "manifest.json").read_text())


def hashes(manifest):
    return [summary["content_sha256"] for summary in manifest["splits"].values()]


def test_records_and_manifest(rsna_folder, tmp_path):
    manifest = prepare(rsna_folder, tmp_path / "data")
    assert manifest["dataset"] == "rsna_pneumonia/32px/1.0.0"
    assert manifest["counts"] == {
        "inputs": 40,
        "accepted": 40,
        "rejected": 0,
        "by_code": {},
        "flagged": {},
    }
    assert sum(split["images"] for split in manifest["splits"].values()) == 40
    assert sum(split["positive"] for split in manifest["splits"].values()) == 14
    folder = tmp_path / "data" / "rsna_pneumonia" / "32px"
    assert os.listdir(folder) == ["1.0.0"]
    patients = {}
    for split in rsna.SPLITS:
        for record in tfds.builder_from_directory(folder / "1.0.0").as_dataset(split=split):
            assert record["image"].shape == (32, 32, 1)
            assert (record["label"] == 1) == bool(len(record["boxes"]))
            assert np.all((record["boxes"] >= 0) & (record["boxes"] <= 1))
            patients.setdefault(record["patient_id"].numpy(), set()).add(split)
    assert len(patients) == 20
    assert all(len(splits) == 1 for splits in patients.values())


def test_workers_and_the_order_of_files_make_no_difference(rsna_folder, tmp_path):
    here = prepare(rsna_folder, tmp_path / "here")
    there = prepare(rsna_folder, tmp_path / "there", workers=2)
    assert hashes(here) == hashes(there)
    assert here["files"] == there["files"]


def test_a_finished_one_is_not_redone_and_a_changed_input_is_noticed(rsna_folder, tmp_path, capsys):
    first = prepare(rsna_folder, tmp_path / "data")
    folder = tmp_path / "data" / "rsna_pneumonia" / "32px" / "1.0.0"
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    prepare(rsna_folder, tmp_path / "data")
    assert "already prepared" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written

    path = rsna_folder / rsna.IMAGES / "film-000.dcm"
    path.write_bytes((rsna_folder / rsna.IMAGES / "film-001.dcm").read_bytes() + b"\0")
    with pytest.raises(UserError, match="--overwrite"):
        prepare(rsna_folder, tmp_path / "data")
    assert hashes(prepare(rsna_folder, tmp_path / "data", overwrite=True)) != hashes(first)


def test_what_an_interrupted_one_left_is_cleared_away(rsna_folder, tmp_path):
    whole = prepare(rsna_folder, tmp_path / "data")
    variant = tmp_path / "data" / "rsna_pneumonia" / "32px"
    (variant / "1.0.0" / "manifest.json").unlink()  # killed before the manifest
    (variant / "incomplete.ABC_1.0.0").mkdir()  # killed while TFDS was writing
    (variant / "incomplete.ABC_1.0.0" / "half.tfrecord").write_bytes(b"half")
    assert hashes(prepare(rsna_folder, tmp_path / "data")) == hashes(whole)
    assert os.listdir(variant) == ["1.0.0"]


def test_refused_images_are_listed(rsna_folder, tmp_path):
    (rsna_folder / rsna.IMAGES / "film-000.dcm").write_bytes(b"<html>")
    (rsna_folder / rsna.IMAGES / "film-001.dcm").unlink()
    manifest = prepare(rsna_folder, tmp_path / "data", max_rejected=0.05)
    assert manifest["counts"]["by_code"] == {"no_file": 1, "not_dicom": 1}
    rejected = [line["file"] for line in manifest["files"] if line["status"] == "rejected"]
    assert rejected == ["film-000.dcm", "film-001.dcm"]


def test_odd_things_among_the_images_are_refused_and_change_no_record(rsna_folder, tmp_path):
    images = rsna_folder / rsna.IMAGES
    plain = prepare(rsna_folder, tmp_path / "plain")
    (images / "dangling.dcm").symlink_to("nothing")
    (images / "loop.dcm").symlink_to("loop.dcm")
    (images / "folder.dcm").mkdir()
    os.mkfifo(images / "pipe.dcm")
    with open(os.fsencode(images) + b"/caf\xe9.dcm", "wb"):
        pass
    names = ("dangling", "loop", "folder", "pipe")
    with (rsna_folder / rsna.LABELS).open("a") as file:
        file.writelines(f"{name},,,,,0\n" for name in names)
    with (rsna_folder / rsna.CLASSES).open("a") as file:
        file.writelines(f"{name},Normal\n" for name in names)
    mapping = json.loads((rsna_folder / "mapping.json").read_text())
    mapping += [{"subset_img_id": name, "img_id": "1_0.png"} for name in names]
    (rsna_folder / "mapping.json").write_text(json.dumps(mapping))
    found = prepare(rsna_folder, tmp_path / "odd", max_rejected=0.2)
    assert hashes(found) == hashes(plain)
    assert {line["file"]: line["code"] for line in found["files"] if "code" in line} == {
        "caf\\udce9.dcm": "no_label",
        "dangling.dcm": "unreadable",
        "folder.dcm": "not_a_file",
        "loop.dcm": "unreadable",
        "pipe.dcm": "not_a_file",
    }


def test_too_many_refused_images_leave_nothing(rsna_folder, tmp_path):
    (rsna_folder / rsna.IMAGES / "film-000.dcm").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"1 of 40 inputs were refused.*film-000.*max_rejected"):
        prepare(rsna_folder, tmp_path / "data", max_rejected=0.01)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_split_whose_images_are_all_refused(rsna_folder, tmp_path):
    for path in (rsna_folder / rsna.IMAGES).iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="leaves a split empty"):
        prepare(rsna_folder, tmp_path / "data", max_rejected=1.0)
    assert list((tmp_path / "data").iterdir()) == []


def test_two_at_a_time(rsna_folder, tmp_path):
    variant = tmp_path / "data" / "rsna_pneumonia" / "32px"
    variant.mkdir(parents=True)
    held = os.open(variant, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            prepare(rsna_folder, tmp_path / "data")
    finally:
        os.close(held)
    assert prepare(rsna_folder, tmp_path / "data")["counts"]["accepted"] == 40
