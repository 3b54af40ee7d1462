import functools
import json
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

import data_prep.rsna_pneumonia
from data_prep import preparation, rsna
from data_prep.cli import UserError
from data_prep.files import locks
from data_prep.preparation import prepare_once
from data_prep.radiographs import Preprocessing
from data_prep.record_builder import RecordConfig
from data_prep.records import SPLITS

# A bare age is what the challenge has.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")

CONFIG = RecordConfig.of(Preprocessing(image_size=32))


VARIANT = "rsna_pneumonia/32px/1.0.0"


def prepare(raw, data_dir, *, max_rejected=0.0, overwrite=False, workers=0):
    prepare_once(
        functools.partial(
            data_prep.rsna_pneumonia.Builder,
            config=CONFIG,
            mapping_file=str(raw / "mapping.json"),
            workers=workers,
        ),
        data_dir,
        VARIANT,
        settings={"split_scheme": "patient", "preprocessing": vars(CONFIG.preprocessing)},
        tables=[epath.Path(raw / rsna.LABELS), epath.Path(raw / rsna.CLASSES)],
        films=rsna.list_images(epath.Path(raw)),
        download_config=tfds.download.DownloadConfig(manual_dir=raw),
        max_rejected=max_rejected,
        overwrite=overwrite,
    )
    return json.loads((data_dir / VARIANT / "manifest.json").read_text())


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
    for split in SPLITS:
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


@pytest.fixture
def changed(rsna_folder, tmp_path):
    """Prepared records, one of whose images has changed since; the hashes of before."""
    before = prepare(rsna_folder, tmp_path / "data")
    image = rsna_folder / rsna.IMAGES / "film-000.dcm"
    image.write_bytes((rsna_folder / rsna.IMAGES / "film-001.dcm").read_bytes() + b"\0")
    return hashes(before)


def stop(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("at", ["_run", "_summarise", "_publish", "epath.Path.rename"])
def test_the_old_records_stay_until_the_new_are_in_their_place(
    changed, rsna_folder, tmp_path, monkeypatch, at
):
    variant = tmp_path / "data" / "rsna_pneumonia" / "32px"
    if at == "epath.Path.rename":  # the second: between the two there is nothing in the place
        rename = type(epath.Path(tmp_path)).rename

        def fail_second(path, target):
            return stop() if path.parts[-4].startswith(".prepare-") else rename(path, target)

        publish = preparation._publish

        def publish_half(*arguments):
            with monkeypatch.context() as patch:
                patch.setattr(type(epath.Path(tmp_path)), "rename", fail_second)
                publish(*arguments)

        monkeypatch.setattr(preparation, "_publish", publish_half)
    else:
        monkeypatch.setattr(preparation, at, stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(rsna_folder, tmp_path / "data", overwrite=True)
    assert os.listdir(variant) == ["1.0.0"]
    assert hashes(json.loads((variant / "1.0.0" / "manifest.json").read_text())) == changed
    monkeypatch.undo()
    assert hashes(prepare(rsna_folder, tmp_path / "data", overwrite=True)) != changed
    assert os.listdir(variant) == ["1.0.0"]


def test_new_inputs_that_are_refused_leave_the_old_records(changed, rsna_folder, tmp_path):
    (rsna_folder / rsna.IMAGES / "film-000.dcm").write_bytes(b"<html>")
    with pytest.raises(UserError, match="1 of 40 inputs were refused"):
        prepare(rsna_folder, tmp_path / "data", overwrite=True)
    variant = tmp_path / "data" / "rsna_pneumonia" / "32px"
    assert hashes(json.loads((variant / "1.0.0" / "manifest.json").read_text())) == changed
    assert os.listdir(variant) == ["1.0.0"]


def test_what_a_killed_one_left_is_put_right_and_cleared_away(changed, rsna_folder, tmp_path):
    variant = tmp_path / "data" / "rsna_pneumonia" / "32px"
    draft = variant / ".prepare-01234567"  # killed between the two renames
    draft.mkdir()
    (draft / "prepare.json").write_text('{"version": "1.0.0"}')
    (variant / "1.0.0").rename(draft / "replaced")
    (variant / ".prepare-89abcdef").mkdir()  # killed before its mark
    (variant / ".prepare-notes").mkdir()  # somebody else's
    (variant / ".prepare-notes" / "notes.txt").touch()
    with pytest.raises(UserError, match="--overwrite"):
        prepare(rsna_folder, tmp_path / "data")
    assert hashes(json.loads((variant / "1.0.0" / "manifest.json").read_text())) == changed
    assert sorted(os.listdir(variant)) == [".prepare-notes", "1.0.0"]


def test_files_of_others_among_the_records_are_never_removed(changed, rsna_folder, tmp_path):
    folder = tmp_path / "data" / VARIANT
    (folder / "decoded-v1").mkdir()  # this one is training's
    (folder / "notes.txt").touch()
    with pytest.raises(UserError, match=r"notes\.txt, which prepare did not write"):
        prepare(rsna_folder, tmp_path / "data", overwrite=True)
    assert (folder / "notes.txt").exists()
    assert hashes(json.loads((folder / "manifest.json").read_text())) == changed
    (folder / "notes.txt").unlink()
    assert hashes(prepare(rsna_folder, tmp_path / "data", overwrite=True)) != changed
    assert not (folder / "decoded-v1").exists()


@pytest.mark.parametrize("manifest", [None, "{"])
def test_records_without_a_manifest_are_not_replaced_unasked(rsna_folder, tmp_path, manifest):
    whole = prepare(rsna_folder, tmp_path / "data")
    path = tmp_path / "data" / VARIANT / "manifest.json"
    path.unlink()
    if manifest:
        path.write_text(manifest)
    with pytest.raises(UserError, match=r"without a whole manifest.*--overwrite"):
        prepare(rsna_folder, tmp_path / "data")
    assert hashes(prepare(rsna_folder, tmp_path / "data", overwrite=True)) == hashes(whole)


def test_on_an_object_store_the_manifest_comes_last(tmp_path, monkeypatch):
    draft, folder = (epath.Path(tmp_path / name) for name in ("draft", "data/" + VARIANT))
    for place, text in ((draft / VARIANT, "new"), (folder, "old")):
        place.mkdir(parents=True)
        for name in ("manifest.json", f"{text}.tfrecord"):
            (place / name).write_text(text)
    monkeypatch.setattr(preparation, "_is_remote", lambda _: True)
    rename = type(draft).rename

    def watch(path, target):
        if path == draft / VARIANT:
            assert not list(folder.glob("*"))
            assert [one.name for one in path.iterdir()] == ["new.tfrecord"]
        return rename(path, target)

    monkeypatch.setattr(type(draft), "rename", watch)
    preparation._publish(draft, VARIANT, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "new.tfrecord"]
    assert (folder / "manifest.json").read_text() == "new"


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
    assert not (tmp_path / "data").exists()


def test_a_split_whose_images_are_all_refused(rsna_folder, tmp_path):
    for path in (rsna_folder / rsna.IMAGES).iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="leaves a split empty"):
        prepare(rsna_folder, tmp_path / "data", max_rejected=1.0)
    assert not (tmp_path / "data").exists()


def test_two_at_a_time(rsna_folder, tmp_path):
    variant = tmp_path / "data" / "rsna_pneumonia" / "32px"
    with locks.hold(variant / ".prepare.lock", "prepared"):
        with pytest.raises(UserError, match="is being prepared by process"):
            prepare(rsna_folder, tmp_path / "data")
        assert os.listdir(variant) == [".prepare.lock"]
    assert prepare(rsna_folder, tmp_path / "data")["counts"]["accepted"] == 40


def test_what_is_done_asks_for_no_place_that_can_be_written(rsna_folder, tmp_path, monkeypatch):
    prepare(rsna_folder, tmp_path / "data")
    monkeypatch.setattr(locks, "hold", stop)
    prepare(rsna_folder, tmp_path / "data")
