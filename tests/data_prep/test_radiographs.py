import math

import cv2
import numpy as np
import pytest

from data_prep.radiographs import Preprocessing, lost_film, prepare_film
from data_prep.rsna import Record
from data_prep.workers import Lost

# A bare age is what the challenge has.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")


@pytest.fixture
def record(phantom, make_dicom, tmp_path):
    stored = np.uint8(phantom * 255)[:, :48]
    path = tmp_path / "a.dcm"
    path.write_bytes(make_dicom(stored, PatientSex="M", PatientAge="151", PixelSpacing=[0.2, 0.2]))
    return Record("a", str(path), "train", 1, "Lung Opacity", ((16, 12, 32, 24),), "7")


def test_an_accepted_film(record):
    film = prepare_film((record, Preprocessing(image_size=32)))
    assert film.outcome == {
        "file": "a.dcm",
        "image_id": "a",
        "status": "accepted",
        "split": "train",
    }
    image = cv2.imdecode(np.frombuffer(film.example["image"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.shape == (32, 32)
    assert not image[:, :4].any()  # 64 x 48 is 32 x 24 between two black bars
    np.testing.assert_allclose(film.example["boxes"], [[8 / 32, 10 / 32, 16 / 32, 16 / 32]])
    assert (film.example["label"], film.example["patient_id"]) == (1, "7")
    assert (film.example["sex"], film.example["view"]) == ("M", "")
    assert math.isnan(film.example["age"])  # nobody is 151
    assert film.example["spacing"] == 0.2


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 65, 5), (0, 0, 5, 49)])
def test_a_box_outside_the_film(record, box):
    film = prepare_film((Record(**{**vars(record), "boxes": (box,)}), Preprocessing()))
    assert film.example is None
    assert (film.outcome["status"], film.outcome["code"]) == ("rejected", "bad_box")


def test_a_refused_film(record):
    broken = Record(**{**vars(record), "path": f"{record.path}.none"})
    film = prepare_film((broken, Preprocessing()))
    assert film.example is None
    assert film.outcome["file"] == "a.dcm.none"
    assert film.outcome["code"] == "unreadable"


@pytest.mark.parametrize("code", ["timeout", "crashed"])
def test_a_film_over_which_the_worker_was_lost(record, code):
    film = lost_film((record, Preprocessing()), Lost(code))
    assert film.example is None
    assert (film.outcome["file"], film.outcome["code"]) == ("a.dcm", code)
