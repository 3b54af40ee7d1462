import numpy as np
import pytest

from data_prep.audit.leakage import leakage, mean_and_range, prepared_split, random_splits

# Six images of four patients; image 0 has two rows.
LABEL = np.array([1, 1, 0, 0, 1, 0])
PATIENT = np.array([0, 0, 1, 1, 2, 3])
IMAGE_OF_ROW = np.array([0, 0, 1, 2, 3, 4, 5])


def rows(*numbers):
    return np.isin(np.arange(7), numbers)


def test_a_split_by_row_leaks_the_image_itself():
    found = leakage(LABEL, PATIENT, IMAGE_OF_ROW, rows(1, 3, 4), rows(0, 2, 5, 6))
    # In test: images 0 (also in train), 1 (its patient is in train), 4, 5.
    assert found["images"] == 1 / 4
    assert found["positive_images"] == 1 / 3
    assert found["patients"] == 2 / 4
    # The memoriser gives patient 0 a 1, the unknown a 1/3; test is 1, 1, 1, 0.
    assert found["patient_memoriser"] == pytest.approx((1 + 1 + 0.5) / 3)


def test_a_split_by_patient_leaks_nothing():
    found = leakage(LABEL, PATIENT, IMAGE_OF_ROW, rows(0, 1, 2, 3, 4), rows(5, 6))
    assert found == {
        "patients": 0,
        "images": 0,
        "positive_images": 0,
        "patient_memoriser": 0.5,
    }


def test_look_alikes_count_in_both_directions():
    pairs = np.array([[2, 4], [5, 5]])
    there = leakage(LABEL, PATIENT, IMAGE_OF_ROW, rows(0, 1, 2, 3, 4), rows(5, 6), pairs)
    back = leakage(LABEL, PATIENT, IMAGE_OF_ROW, rows(5, 6), rows(0, 1, 2, 3, 4), pairs)
    assert there["near_duplicates"] == 1 / 2  # image 4 of 4 and 5
    assert back["near_duplicates"] == 1 / 4  # image 2 of 0, 1, 2 and 3


def test_one_class_in_test_has_no_auroc():
    found = leakage(LABEL, PATIENT, IMAGE_OF_ROW, rows(0, 1, 2), rows(3, 4))
    assert np.isnan(found["patient_memoriser"])


def test_random_splits_keep_units_whole():
    unit = np.repeat(np.arange(40), 3)
    for in_train, in_test in random_splits(unit, 0.25, draws=3):
        assert (in_train ^ in_test).all()
        assert in_test.sum() == 30
        assert len(set(unit[in_test]) & set(unit[in_train])) == 0


def test_prepared_split_is_that_of_prepare():
    in_train, in_test = prepared_split([f"{number:08d}" for number in range(4000)])
    assert in_train.mean() == pytest.approx(0.70, abs=0.02)
    assert in_test.mean() == pytest.approx(0.15, abs=0.02)


def test_mean_and_range():
    found = mean_and_range([{"x": float(value)} for value in range(101)])["x"]
    assert found == {"value": 50, "low": 2.5, "high": 97.5}
