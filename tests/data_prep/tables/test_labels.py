import pytest

from data_prep.tables.labels import is_normal, label_of_cell, read_label
from data_prep.tables.patients import clean, merge_spellings


@pytest.mark.parametrize(
    ("cell", "positive", "label"),
    [
        ("1", "", 1),
        ("0.0", "", 0),
        ("TRUE", "", 1),
        ("", "", -1),
        ("-1.0", "", -1),
        ("Pneumonia", "", -1),
        ("Pneumonia", "Pneumonia", 1),
        ("pneumonia", "(?i)pneumonia", 1),
        ("No Pneumonia", "Pneumonia", 0),  # the whole value, not a part
        ("Edema|Pneumonia", "Pneumonia", 1),
        ("Edema|Mass", "Pneumonia", 0),
        ("a(b", "a(b", 1),
        ("NA", "Pneumonia", -1),
        ("uncertain", "Pneumonia", -1),
    ],
)
def test_one_cell(cell, positive, label):
    assert label_of_cell(cell, positive) == label


def test_several_findings():
    assert read_label(["1", "", "0"], "", ()) == (1, -1, 0)
    values = ("Mass", "Edema", "Hernia")
    assert read_label(["Edema|Mass"], "", values) == (1, 1, 0)
    assert read_label(["No Finding"], "", values) == (0, 0, 0)
    assert read_label([""], "", values) == (-1, -1, -1)


@pytest.mark.parametrize("name", ["NORMAL", "No Finding", "no_finding", "Negative"])
def test_names_of_the_normal(name):
    assert is_normal(name)
    assert not is_normal(f"Ab{name}")


def test_spellings_of_one_patient():
    chosen, merged = merge_spellings(
        [("a", "12"), ("a", "012"), ("b", "12"), ("a", "x7"), ("a", "X7"), ("a", "0"), ("a", "120")]
    )
    assert chosen["a", "12"] == chosen["a", "012"] == "012"
    assert chosen["b", "12"] == "12"  # another hospital's
    assert chosen["a", "x7"] == chosen["a", "X7"]
    assert (chosen["a", "0"], chosen["a", "120"]) == ("0", "120")
    assert merged == ["'12' and '012'", "'X7' and 'x7'"]


def test_numbers_that_were_saved_as_float():
    assert [clean(cell) for cell in ("12.0", "1.20", "a.0", "012")] == ["12", "1.20", "a.0", "012"]
