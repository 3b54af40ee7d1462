import numpy as np
import pytest

from data_prep.audit.columns import GIVEN, RARE, categories, why_untested


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["a", "b"] * 20, None),
        (["a", ""] * 20, None),
        (["a"] * 9, "always 'a'"),
        ([""] * 9, "empty"),
        ([], "empty"),
        ([f"1.2.{i}" for i in range(40)], "an id: 40 different values of 40 images"),
        ([str(i) for i in range(40)], "an id: 40 different values of 40 images"),
        ([f"{i / 7:.3f}" for i in range(40)], None),  # measured
        ([str(i // 2) for i in range(40)], None),
        ([str(i) for i in range(20)] + [""] * 20, None),  # given or not
    ],
)
def test_what_says_nothing_of_other_images_is_left_out(values, why):
    assert why_untested(np.array(values, str)) == why


def test_numbers_become_quantiles_and_missing_stays_missing():
    ages = np.array([*map(str, range(100)), *map(str, range(100)), "", ""])
    found = categories(ages)
    assert list(found[[0, 9, 10, 99, -1]]) == ["0 to 9", "0 to 9", "10 to 19", "90 to 99", ""]
    assert len(set(found)) == 11


def test_few_different_numbers_and_words_are_categories_as_they_are():
    for values in (["224", "1024"], ["AP", "PA"]):
        column = np.array(values * 10)
        np.testing.assert_array_equal(categories(column), column)


def test_rare_values_are_one_category():
    values = np.repeat(["common", "rare", "rarer", ""], [30, 9, 1, 3])
    assert list(np.unique(categories(values))) == sorted(["", RARE, "common"])
    values = np.repeat(["common", "single"], [30, 3])  # nothing to pool
    np.testing.assert_array_equal(categories(values), values)


def test_an_id_that_some_lack_is_given_or_not():
    values = np.array([str(i) for i in range(30)] + [""] * 30)
    np.testing.assert_array_equal(categories(values), np.repeat([GIVEN, ""], 30))
