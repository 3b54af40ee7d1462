import dataclasses
import math

import cv2
import numpy as np
import pytest

from data_prep.radiographs import Preprocessing, lost_radiograph, prepare_radiograph
from data_prep.records import Record
from data_prep.workers import Lost

# A bare age is what the challenge has.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")


@pytest.fixture
def record(phantom, make_dicom, tmp_path):
    stored = np.uint8(phantom * 255)[:, :48]
    path = tmp_path / "a.dcm"
    path.write_bytes(make_dicom(stored, PatientSex="M", PatientAge="151", PixelSpacing=[0.2, 0.2]))
    return Record("a", str(path), "train", 1, "Lung Opacity", ((16, 12, 32, 24),), "7")


def test_an_accepted_image(record):
    prepared = prepare_radiograph((record, Preprocessing(image_size=32)))
    assert prepared.outcome == {
        "file": "a.dcm",
        "image_id": "a",
        "status": "accepted",
        "split": "train",
    }
    image = cv2.imdecode(np.frombuffer(prepared.example["image"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.shape == (32, 32)
    assert not image[:, :4].any()  # 64 x 48 is 32 x 24 between two black bars
    np.testing.assert_allclose(prepared.example["boxes"], [[8 / 32, 10 / 32, 16 / 32, 16 / 32]])
    assert (prepared.example["label"], prepared.example["patient_id"]) == (1, "7")
    assert (prepared.example["sex"], prepared.example["view"]) == ("M", "")
    assert math.isnan(prepared.example["age"])  # nobody is 151
    assert prepared.example["spacing"] == 0.2


def test_a_table_overrules_the_header_and_its_images_are_described(record):
    said = {"view": "PA", "sex": "F", "age": 3.5, "spacing": 0.1, "source": "clinic", "file": "x/a"}
    prepared = prepare_radiograph((dataclasses.replace(record, **said), Preprocessing(32)))
    found = {name: prepared.example[name] for name in ("view", "sex", "age", "spacing")}
    assert found == {"view": "PA", "sex": "F", "age": 3.5, "spacing": 0.1}
    assert prepared.outcome == {
        "file": "x/a",
        "image_id": "a",
        "status": "accepted",
        "split": "train",
        "source": "clinic",
        "format": "dicom",
        "rows": 64,
        "columns": 48,
    }


def test_raw_detector_data_and_too_few_greys_are_flagged(record, phantom, make_dicom, tmp_path):
    (tmp_path / "a.dcm").write_bytes(
        make_dicom(np.uint16(phantom * 4095), bits=16, PresentationIntentType="FOR PROCESSING")
    )
    prepared = prepare_radiograph((record, Preprocessing(image_size=32)))
    assert prepared.outcome["flags"] == ["for_processing", "few_greys"]
    assert prepared.example is not None


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 65, 5), (0, 0, 5, 49)])
def test_a_box_outside_the_image(record, box):
    prepared = prepare_radiograph((Record(**{**vars(record), "boxes": (box,)}), Preprocessing()))
    assert prepared.example is None
    assert (prepared.outcome["status"], prepared.outcome["code"]) == ("rejected", "bad_box")


def test_a_refused_image(record):
    broken = Record(**{**vars(record), "path": f"{record.path}.none"})
    prepared = prepare_radiograph((broken, Preprocessing()))
    assert prepared.example is None
    assert prepared.outcome["file"] == "a.dcm.none"
    assert prepared.outcome["code"] == "unreadable"


@pytest.mark.parametrize("code", ["timeout", "crashed"])
def test_an_image_over_which_the_worker_was_lost(record, code):
    prepared = lost_radiograph((record, Preprocessing()), Lost(code))
    assert prepared.example is None
    assert (prepared.outcome["file"], prepared.outcome["code"]) == ("a.dcm", code)
