"""The real commands on a synthetic folder in the challenge's layout."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
IMAGES = 90


def run(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"data_prep.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("challenge") / "raw"
    assert run("synthetic", f"--out={folder}", f"--images={IMAGES}").returncode == 0
    return folder


def rsna(raw, data_dir, *more):
    return (
        "--dataset=rsna",
        f"--raw={raw}",
        f"--mapping={raw / MAPPING}",
        f"--data_dir={data_dir}",
        "--image_size=64",
        *more,
    )


def manifest_of(data_dir):
    return json.loads((data_dir / "rsna_pneumonia/64px/1.0.0/manifest.json").read_text())


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("prepared") / "data"
    done = run("prepare", *rsna(raw, data_dir, "--workers=2"))
    assert done.returncode == 0, done.stderr
    return data_dir


def test_every_image_is_in_the_manifest_and_no_patient_in_two_splits(raw, prepared):
    manifest = manifest_of(prepared)
    images = {path.name for path in (raw / "stage_2_train_images").iterdir()}
    assert {line["file"] for line in manifest["files"]} == images
    assert manifest["counts"] == {
        "inputs": IMAGES,
        "accepted": IMAGES,
        "rejected": 0,
        "by_code": {},
        "flagged": {"synthetic": IMAGES},
    }
    mapping = {
        entry["subset_img_id"]: entry["img_id"][:8]
        for entry in json.loads((raw / MAPPING).read_text())
    }
    splits = {}
    for line in manifest["files"]:
        splits.setdefault(mapping[line["image_id"]], set()).add(line["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_tfds_load_reads_what_was_prepared(prepared):
    code = (
        "import tensorflow_datasets as tfds, data_prep.rsna_pneumonia; "
        f"print(len(tfds.load('rsna_pneumonia/64px', data_dir={str(prepared)!r}, split='all')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == str(IMAGES)


def test_a_second_run_does_nothing(raw, prepared):
    done = run("prepare", *rsna(raw, prepared, "--workers=1"))
    assert (done.returncode, "already prepared" in done.stdout) == (0, True)


def kill_in_the_middle(arguments, variant):
    """Starts a preparation and kills it when two splits are written."""
    command = [sys.executable, "-m", "data_prep.prepare", *arguments]
    with subprocess.Popen(command) as process:
        while not list(variant.glob(".prepare-*/*/*/incomplete.*/*-validation.*")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)


def test_killed_in_the_middle_and_run_again(raw, prepared, tmp_path):
    arguments = rsna(raw, tmp_path / "data", "--workers=1")
    variant = tmp_path / "data" / "rsna_pneumonia" / "64px"
    kill_in_the_middle(arguments, variant)
    assert not list(variant.glob("*/manifest.json"))
    assert os.listdir(variant) != []
    again = run("prepare", *arguments)
    assert again.returncode == 0, again.stderr
    assert os.listdir(variant) == ["1.0.0"]
    assert manifest_of(tmp_path / "data")["splits"] == manifest_of(prepared)["splits"]


def test_killed_while_replacing_and_run_again(raw, prepared, tmp_path):
    """The old records can be loaded after the kill, and the same command ends with the new ones."""
    data = shutil.copytree(prepared, tmp_path / "data")
    fewer = shutil.copytree(raw, tmp_path / "raw")
    next((fewer / "stage_2_train_images").iterdir()).unlink()
    arguments = rsna(fewer, data, "--workers=1", "--max_rejected=0.1", "--overwrite")
    kill_in_the_middle(arguments, data / "rsna_pneumonia" / "64px")
    assert manifest_of(data) == manifest_of(prepared)
    test_tfds_load_reads_what_was_prepared(data)
    again = run("prepare", *arguments)
    assert again.returncode == 0, again.stderr
    assert manifest_of(data)["counts"]["accepted"] == IMAGES - 1
    assert os.listdir(data / "rsna_pneumonia" / "64px") == ["1.0.0"]


def test_two_into_one_new_folder(raw, prepared, tmp_path):
    command = [sys.executable, "-m", "data_prep.prepare", *rsna(raw, tmp_path / "data")]
    both = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    for process, (out, errors) in zip(both, said, strict=True):
        if process.returncode != 0:  # or it came when the other had finished
            assert process.returncode == 2
            assert "64px is being prepared by process" in errors
            assert errors.count("\n") == 1
        else:
            assert "accepted" in out or "already prepared" in out
    assert 0 in [process.returncode for process in both]
    assert manifest_of(tmp_path / "data")["splits"] == manifest_of(prepared)["splits"]


def test_ctrl_c_is_one_line_and_leaves_no_records(raw, tmp_path):
    command = [sys.executable, "-m", "data_prep.prepare", *rsna(raw, tmp_path / "data")]
    variant = tmp_path / "data" / "rsna_pneumonia" / "64px"
    with subprocess.Popen(
        [*command, "--workers=2"], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not list(variant.glob(".prepare-*/*/*/incomplete.*/*")):
            assert process.poll() is None, "it ended before it could be stopped"
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
        errors = process.stderr.read()
    assert (process.returncode, errors) == (130, "interrupted\n")
    # A draft may be left: inside an import, or where cleaning up takes seconds, it ends at once.
    assert not list(variant.glob("1.0.0*"))
    assert run("prepare", *rsna(raw, tmp_path / "data")).returncode == 0
    assert not list(variant.glob(".prepare-*"))


@pytest.mark.parametrize("where", ["file", "file/data", 300 * "x", "data/" + 300 * "x"])
def test_a_folder_that_cannot_be_is_one_sentence(raw, tmp_path, where):
    (tmp_path / "file").touch()
    done = run("prepare", *rsna(raw, tmp_path / where))
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert where in line
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(raw, small_disk):
    arguments = " ".join(rsna(raw, "$disk/data", "--workers=1"))
    command = f"{sys.executable} -m data_prep.prepare {arguments}"
    done = small_disk("100k", f"{command}; echo status $?; ls -A $disk")
    assert done.stdout.split() == ["status", "2"]
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "No space left on device; make room" in line


def test_splits_that_leak_say_so(raw, tmp_path):
    done = run("prepare", *rsna(raw, tmp_path / "data", "--split=image"))
    assert done.returncode == 0, done.stderr
    assert "LEAKS" in done.stderr


@pytest.fixture
def broken(raw, tmp_path):
    """A copy of the folder that a test may break."""
    return shutil.copytree(raw, tmp_path / "broken")


def break_table(folder):
    (folder / "stage_2_train_labels.csv").write_text("id,target\na,1\n")


def break_images(folder):
    shutil.rmtree(folder / "stage_2_train_images")
    (folder / "stage_2_train_images").mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "is not a folder"),
        (break_table, "has no column 'patientId'"),
        (break_images, "holds no .dcm file"),
        (lambda folder: (folder / MAPPING).unlink(), "is no file"),
        (lambda folder: (folder / MAPPING).write_text("{"), "not the challenge's mapping"),
        (lambda folder: (folder / "stage_2_detailed_class_info.csv").unlink(), "cannot read"),
    ],
)
def test_a_broken_download_is_one_sentence_and_leaves_nothing(broken, tmp_path, damage, words):
    damage(broken)
    done = run("prepare", *rsna(broken, tmp_path / "data"))
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "rsna_pneumonia").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset=rsna", "--raw=RAW"], "--split=patient needs --mapping"),
        (["--dataset=rsna", "--raw=RAW", "--workers=0"], "--workers"),
        (["--dataset=rsna", "--raw=RAW", "--image_size=3"], "--image_size"),
        (["--dataset=rsna", "--raw=RAW", "--max_rejected=2"], "--max_rejected"),
        (["--dataset=mimic", "--raw=RAW"], "mimic"),
        (["--dataset=pneumonia_mnist", "--raw=none.npz"], "none.npz"),
    ],
)
def test_wrong_flags(raw, tmp_path, flags, words):
    flags = [flag.replace("RAW", str(raw)) for flag in flags]
    done = run("prepare", *flags, f"--data_dir={tmp_path / 'data'}")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_audit(raw, tmp_path):
    done = run(
        "audit",
        f"--raw={raw}",
        f"--mapping={raw / MAPPING}",
        f"--out={tmp_path / 'audit.json'}",
        "--draws=5",
        "--workers=2",
    )
    assert done.returncode == 0, done.stderr
    assert "own patient" in done.stdout
    result = json.loads((tmp_path / "audit.json").read_text())
    assert result["images"] == IMAGES
    assert set(result["confounders"]) == {"view", "sex", "age", "spacing", "union"}
