import numpy as np
import pytest

from cbam_flax.evaluate import patients


def columns(images, of, scheme="patient"):
    return patients.with_known_patients(
        {"image_id": np.array(images), "patient_id": np.array(of)}, scheme
    )


def test_an_image_of_an_unknown_patient_is_its_own_patient():
    found = columns(["a", "b"], ["", "p"])
    assert found["patient_id"].tolist() == ["a", "p"]
    assert found["patient_known"].tolist() == [False, True]


def test_under_the_row_scheme_the_image_is_seen_behind_its_rows():
    found = columns(["a#0", "a#1", "b#c#0"], ["", "", ""], "row")
    assert found["source_image"].tolist() == ["a", "a", "b#c"]
    assert found["patient_id"].tolist() == ["a", "a", "b#c"]
    assert columns(["b#c"], [""])["source_image"].tolist() == ["b#c"]


@pytest.mark.parametrize(
    ("of", "unit", "counted", "words"),
    [
        (["p", "p", "q"], "patients", (2, 0), "2 patients"),
        (["", "", ""], "images", (None, 3), "unknown patients"),
        (
            ["p", "", "q"],
            "patients, or images where the patient is unknown",
            (2, 1),
            "2 patients and 1 unknown ones",
        ),
    ],
)
def test_what_is_resampled_and_counted_is_said(of, unit, counted, words):
    found = columns(["a", "b", "c"], of)
    assert patients.resampling_unit(found) == unit
    assert tuple(patients.count(found).values()) == counted
    assert patients.described(patients.count(found)) == words


@pytest.mark.parametrize(
    ("train", "judged", "images", "of_known_patients", "unchecked"),
    [
        ((["a", "b"], ["p", "q"]), (["c", "d"], ["p", "r"]), 0, 1, 0),
        # The rows of one image: "a" is judged and was trained on.
        ((["a#0", "b#0"], ["", ""]), (["a#1", "c#0"], ["", ""]), 1, 1, 1),
        ((["a", "b"], ["p", ""]), (["c", "d"], ["p", "r"]), 0, 1, 1),
        ((["a", "b"], ["p", "q"]), (["c", "d"], ["", "r"]), 0, 0, 1),
    ],
)
def test_overlap_is_counted_or_said_to_be_unchecked(
    train, judged, images, of_known_patients, unchecked
):
    scheme = "row" if "#" in train[0][0] else "patient"
    found = patients.overlap(columns(*train, scheme), columns(*judged, scheme))
    assert found == {
        "images": images,
        "images_of_known_patients": of_known_patients,
        "unchecked": unchecked,
    }
