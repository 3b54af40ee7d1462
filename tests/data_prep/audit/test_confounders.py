import numpy as np
import pytest

from data_prep.audit.confounders import category, confounder_auroc


def test_what_predicts_and_what_does_not():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(300), 2)
    label = rng.integers(0, 2, 600)
    view = np.where(rng.random(600) < 0.8, np.where(label, "AP", "PA"), "PA")
    noise = rng.choice(["F", "M"], 600)
    known = confounder_auroc(label, patient, [view], draws=30)
    unknown = confounder_auroc(label, patient, [noise], draws=30)
    # Of the positive 80 % are AP, of the negative none: 0.8 + 0.2 / 2.
    assert known["value"] == pytest.approx(0.9, abs=0.03)
    assert known["low"] < known["value"] < known["high"]
    assert unknown["low"] < 0.5 < unknown["high"]


def test_a_patient_is_never_in_fit_and_test():
    """The patient's own number, as a category, must not predict what is true of the patient."""
    patient = np.repeat(np.arange(100), 4)
    label = patient % 2
    found = confounder_auroc(label, patient, [patient.astype(str)], draws=5)
    assert found["value"] == 0.5


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("view", " AP", "AP"),
        ("age", "51", "50s"),
        ("age", "009Y", "0s"),
        ("age", "151", ""),
        ("spacing", "0.14300000000000002", "0.143"),
        ("spacing", "", ""),
    ],
)
def test_category(name, text, expected):
    assert category(name, text) == expected
