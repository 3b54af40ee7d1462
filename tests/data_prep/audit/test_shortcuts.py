import numpy as np
import pytest
from scipy.stats import fisher_exact

from data_prep.audit.columns import Column
from data_prep.audit.shortcuts import independence, judge, rates


def everywhere(values):
    values = np.asarray(values, str)
    return Column(values, np.ones(len(values), bool))


def test_a_small_group_is_caught_that_the_auroc_hides():
    """As 6 of 79 jpg images are positive, and 300 of 1,066 png images."""
    label = np.repeat([1, 0, 1, 0], [6, 73, 300, 766])
    copy = np.repeat(["jpg", "png"], [79, 1066])
    coin = np.random.default_rng(0).choice(["a", "b"], len(label))
    columns = {"copy": everywhere(copy), "coin": everywhere(coin)}
    found, untested = judge(label, np.arange(len(label)), columns, draws=20)
    assert not untested
    assert found["copy"]["auroc"]["value"] < 0.55
    assert not found["copy"]["shortcut"]
    jpg = found["copy"]["values"]["jpg"]
    assert (jpg["positive"], jpg["images"], jpg["shortcut"]) == (6, 79, True)
    assert jpg["low"] < 6 / 79 < jpg["high"] < 300 / 1066
    assert jpg["odds_ratio"] == pytest.approx(6.5 / 73.5 / (300.5 / 766.5))
    assert jpg["p"] < 0.001
    assert not found["coin"]["shortcut"]
    assert not any(value["shortcut"] for value in found["coin"]["values"].values())


def test_what_predicts_as_a_whole_is_a_shortcut():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 400)
    dose = 10 * rng.normal(label, 1.0)
    found, _ = judge(label, np.arange(400), {"dose": everywhere(dose.round(3))}, draws=20)
    assert found["dose"]["shortcut"]
    assert found["dose"]["auroc"]["value"] == pytest.approx(0.76, abs=0.05)
    assert len(found["dose"]["values"]) == 10


def test_a_column_is_tested_where_its_table_has_it():
    label = np.tile([0, 1], 100)
    values = np.where(np.arange(200) < 100, np.where(label == 1, "a", "b"), "")
    own = Column(values, np.arange(200) < 100)
    found, untested = judge(label, np.arange(200), {"own": own, "all": everywhere(values)}, 10)
    assert found["own"]["images"] == 100
    assert set(found["own"]["values"]) == {"a", "b"}
    assert set(found["all"]["values"]) == {"a", "b", ""}
    assert untested == {}


def test_what_groups_the_images_alike_is_tested_once():
    label = np.tile([0, 1], 50)
    size = np.repeat(["224", "1024"], 50)
    kind = np.repeat(["png", "dicom"], 50)
    found, untested = judge(
        label, np.arange(100), {"rows": everywhere(size), "format": everywhere(kind)}, 10
    )
    assert set(found) == {"rows"}
    assert untested == {"format": "it groups the images as rows does"}


def test_too_few_patients_have_no_auroc_and_still_exact_tests():
    label = np.repeat([1, 0], [9, 60])
    values = np.where(label == 1, "a", "b")
    found, _ = judge(label, np.arange(69), {"x": everywhere(values)}, draws=10)
    assert found["x"]["auroc"] is None
    assert found["x"]["values"]["a"]["shortcut"]


def test_the_images_of_one_patient_are_no_independent_evidence():
    """20 patients of 50 images each: by images, chance alone would look certain."""
    patient = np.repeat(np.arange(20), 50)
    label = (patient % 2).astype(int)
    values = np.where(patient < 12, "a", "b")  # 6 of 12 and 4 of 8 patients
    values[patient == 18] = "a"  # now 6 of 13
    by_images = fisher_exact(
        [[(label[values == v] == one).sum() for one in (0, 1)] for v in "ab"]
    ).pvalue
    assert by_images < 0.01
    np.testing.assert_array_equal(independence(label, patient, values), 1.0)


def test_one_image_per_patient_is_the_exact_test():
    label = np.repeat([1, 0, 1, 0], [1, 19, 40, 40])
    values = np.repeat(["a", "b"], [20, 80])
    lower = fisher_exact([[1, 19], [40, 40]], alternative="less").pvalue
    # Twice for its two sides, and twice for the median.
    np.testing.assert_allclose(independence(label, np.arange(100), values), 4 * lower)


def test_rates_count_images_and_patients():
    found = rates(np.array([1, 0, 0, 1]), np.array([0, 0, 1, 2]), np.array(["a", "a", "a", "b"]))
    assert [found["a"][key] for key in ("images", "patients", "positive")] == [3, 2, 1]
    assert found["b"]["value"] == 1
    assert found["b"]["high"] == pytest.approx(1)
