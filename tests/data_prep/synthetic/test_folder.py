import csv
import itertools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from sklearn.metrics import roc_auc_score

from data_prep import mapping
from data_prep.cli import UserError
from data_prep.files import folders
from data_prep.synthetic import phantom, planning
from data_prep.synthetic.folder import MAPPING_FILE, write

IMAGES = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "set"
    write(out, IMAGES, seed=3)
    return out


@pytest.fixture(scope="module")
def images():
    """(label, drawn image) of the first images of a seed."""
    chosen = itertools.islice(planning.plans(11), 90)
    return [(bool(plan.opacities), draw(plan, 11)) for plan in chosen]


def draw(plan, seed):
    return phantom.render(
        phantom.Body.draw(np.random.default_rng([seed, 1, plan.patient]), plan.female),
        np.random.default_rng([seed, 2, plan.index]),
        view=plan.view,
        opacities=plan.opacities,
        findings=plan.findings,
    )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "SYNTHETIC.json"
    }


def test_the_folder_is_laid_out_like_the_challenge(folder):
    labels = rows(folder / "stage_2_train_labels.csv")
    classes = rows(folder / "stage_2_detailed_class_info.csv")
    mapping = json.loads((folder / MAPPING_FILE).read_text())
    files = {path.stem for path in (folder / "stage_2_train_images").iterdir()}

    assert list(labels[0]) == ["patientId", "x", "y", "width", "height", "Target"]
    assert [row["patientId"] for row in labels] == [row["patientId"] for row in classes]
    assert files == {row["patientId"] for row in labels}
    assert files == {entry["subset_img_id"] for entry in mapping}
    assert len(files) == len(mapping) == IMAGES
    for label, detailed in zip(labels, classes, strict=True):
        positive = label["Target"] == "1"
        assert positive == (detailed["class"] == "Lung Opacity")
        assert positive == bool(label["x"]) == bool(label["height"])
    for entry in mapping:
        assert re.fullmatch(r"\d{8}_\d{3}\.png", entry["img_id"])
        header = pydicom.dcmread(folder / "stage_2_train_images" / f"{entry['subset_img_id']}.dcm")
        for uid in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            assert entry[uid] == header[uid].value


def test_headers_are_those_of_the_challenge_and_say_synthetic(folder):
    for path in (folder / "stage_2_train_images").iterdir():
        header = pydicom.dcmread(path)
        assert header.file_meta.TransferSyntaxUID == pydicom.uid.JPEGBaseline8Bit
        assert header.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
        assert (header.Modality, header.PhotometricInterpretation) == ("CR", "MONOCHROME2")
        assert header.PatientID == path.stem
        assert re.fullmatch(r"\d{1,3}", header.PatientAge)
        assert header.SeriesDescription == f"view: {header.ViewPosition}"
        assert header.ViewPosition in ("PA", "AP")
        assert header.pixel_array.shape == (1024, 1024)
        assert header.pixel_array.dtype == np.uint8
        assert header.SyntheticData == "YES"
        for tag in ("PatientName", "Manufacturer", "ImageComments"):
            assert "SYNTHETIC" in str(header[tag].value)


def test_headers_have_the_tags_of_a_real_file(folder, shared_data):
    real = pydicom.dcmread(next((shared_data / "rsna_sample/stage_2_train_images").iterdir()))
    drawn = pydicom.dcmread(next((folder / "stage_2_train_images").iterdir()))
    added = {element.keyword for element in drawn} - {element.keyword for element in real}
    assert {element.keyword for element in real} <= {element.keyword for element in drawn}
    assert added == {"Manufacturer", "ImageComments", "SyntheticData"}
    changeless = ("Modality", "ConversionType", "BitsStored", "Rows", "LossyImageCompressionMethod")
    for keyword in changeless:
        assert drawn[keyword].value == real[keyword].value


def test_files_do_not_depend_on_the_worker_count_and_a_longer_set_extends_a_shorter(
    folder, tmp_path
):
    write(tmp_path / "two", 4, seed=3, workers=2)
    whole, part = contents(folder), contents(tmp_path / "two")
    images = {name for name in part if name.endswith(".dcm")}
    assert len(images) == 4
    assert {name: whole[name] for name in images} == {name: part[name] for name in images}


def test_another_seed_gives_other_images_and_ids(folder, tmp_path):
    write(tmp_path / "other", 2, seed=4)
    assert not contents(folder).keys() & {
        name for name in contents(tmp_path / "other") if name.endswith(".dcm")
    }


def test_labels_follow_the_rates_and_the_view_is_only_a_weak_shortcut():
    plans = list(itertools.islice(planning.plans(0), 4000))
    positive = np.array([plan.opacities > 0 for plan in plans])
    view = [plan.view == "AP" for plan in plans]
    classes = [plan.detailed_class for plan in plans]
    assert 0.33 < positive.mean() < 0.42
    assert 0.4 < np.mean(view) < 0.6
    assert 0.55 < roc_auc_score(positive, view) < 0.65
    assert classes.count("Normal") > 1000
    assert classes.count("No Lung Opacity / Not Normal") > 800
    assert {plan.opacities for plan in plans} == {0, 1, 2, 3}
    assert len({plan.image_id for plan in plans}) == 4000


def test_a_patient_keeps_sex_and_age_through_several_radiographs():
    plans = list(itertools.islice(planning.plans(0), 500))
    patients = {plan.patient: (plan.female, plan.age) for plan in plans}
    assert 150 < len(patients) < 300
    assert all(patients[plan.patient] == (plan.female, plan.age) for plan in plans)


def test_boxes_are_whole_pixels_of_the_promised_size_inside_the_image(images):
    for positive, drawn in images:
        assert bool(drawn.boxes) == positive
        for x, y, width, height in drawn.boxes:
            assert all(isinstance(side, int) for side in (x, y, width, height))
            assert 0 <= x < x + width <= phantom.SIDE
            assert 0 <= y < y + height <= phantom.SIDE
            assert phantom.BOX_SIDE[0] <= min(width, height)
            assert max(width, height) <= phantom.BOX_SIDE[1]


@pytest.fixture(scope="module")
def pairs():
    """Images with an opacity, each with the same image without it."""
    made = []
    for number in range(8):
        body = phantom.Body.draw(np.random.default_rng(number), female=bool(number % 2))
        view = ("PA", "AP")[number // 4]
        made.append(
            [
                phantom.render(body, np.random.default_rng(number), view=view, opacities=count)
                for count in (1, 0)
            ]
        )
    return made


def test_what_is_denser_is_in_the_box(pairs):
    for drawn, clear in pairs:
        x, y, width, height = drawn.boxes[0]
        denser = drawn.image.astype(float) - clear.image
        inside = denser[y : y + height, x : x + width].mean()
        assert inside > 8
        assert inside > 8 * abs(denser.mean())


def test_exposure_is_the_same_with_and_without_an_opacity(pairs):
    for drawn, clear in pairs:
        assert drawn.image.mean() == pytest.approx(clear.image.mean(), rel=0.01)
        assert drawn.image.std() == pytest.approx(clear.image.std(), rel=0.01)


def test_brightness_does_not_tell_the_label(images):
    labels = [label for label, _ in images]
    for statistic in (np.mean, np.std):
        assert 0.33 < roc_auc_score(labels, [statistic(drawn.image) for _, drawn in images]) < 0.67


def test_ap_images_have_the_higher_diaphragm_and_the_larger_heart():
    body = phantom.Body.draw(np.random.default_rng(0), female=False)
    in_bed = body.in_bed(np.random.default_rng(0))
    assert in_bed.dome < body.dome
    assert in_bed.heart > body.heart
    upright, supine = (
        phantom.render(body, np.random.default_rng(0), view=view).image for view in ("PA", "AP")
    )
    # Just above the upright diaphragm: air there, liver and heart in the image taken in bed.
    row = slice(580, 620)
    assert np.median(supine[row, 250:450]) > np.median(upright[row, 250:450])


def test_an_unknown_finding_is_refused():
    body = phantom.Body.draw(np.random.default_rng(0), female=False)
    with pytest.raises(ValueError, match="unicorn"):
        phantom.render(body, np.random.default_rng(0), view="PA", findings=["unicorn"])


def test_the_same_call_again_changes_nothing(folder, capsys):
    before = contents(folder)
    write(folder, IMAGES, seed=3)
    assert "already" in capsys.readouterr().out
    assert contents(folder) == before


def test_a_folder_of_something_else_is_refused_and_kept(folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        write(tmp_path, 2)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(UserError, match="not empty"):
        write(folder, IMAGES + 1, seed=3)


def test_a_folder_where_a_call_was_killed_is_finished(tmp_path):
    write(tmp_path / "twin", 2)
    out = tmp_path / "set"
    with folders.writing(out, "data_prep.synthetic", index="SYNTHETIC.json"):
        shutil.copytree(out, tmp_path / "killed")  # as a kill at this moment leaves it
    write(tmp_path / "killed", 2)
    assert contents(tmp_path / "killed") == contents(tmp_path / "twin")
    assert not (tmp_path / "killed" / folders.DRAFT).exists()


def test_nothing_is_left_behind_when_drawing_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("data_prep.synthetic.folder.write_radiograph", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "set", 2)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "data_prep.synthetic", f"--out={tmp_path / 'set'}"]
    done = subprocess.run([*command, "--images=2", "--workers=1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "set/stage_2_train_images").iterdir())) == 2
    assert "2 synthetic radiographs of " in done.stdout
    assert (tmp_path / "set" / mapping.SYNTHETIC_MARK).exists()

    wrong = subprocess.run([*command, "--images=0"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--images" in wrong.stderr
    assert "Traceback" not in wrong.stderr
