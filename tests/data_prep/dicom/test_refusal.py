import pickle

import pytest

from data_prep.dicom.refusal import DicomRefusal


def test_the_codes_are_a_closed_set():
    with pytest.raises(ValueError, match="'bad_luck'"):
        DicomRefusal("bad_luck", "no")


def test_it_comes_back_from_a_worker():
    refusal = pickle.loads(pickle.dumps(DicomRefusal("truncated", "half an image")))
    assert (refusal.code, str(refusal)) == ("truncated", "truncated: half an image")
