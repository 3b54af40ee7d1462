import numpy as np

from data_prep.dicom import read_radiograph
from data_prep.grey_range import FEW_LEVELS, distribution, grey_range, never_seen
from data_prep.resize import fit_image


def test_levels_and_spread():
    image = np.repeat(np.uint8([0, 10, 110, 255]), [1, 200, 200, 1]).reshape(6, 67)
    assert grey_range(image) == {"levels": 4, "spread": 100}


def test_twelve_bits_declared_as_sixteen_are_flagged(phantom, make_dicom):
    def square(bits_in_use):
        stored = np.uint16(phantom * ((1 << bits_in_use) - 1))
        image = read_radiograph(make_dicom(stored, bits=16)).image
        return fit_image(image, 32, "letterbox", "area")[0]

    training = distribution([grey_range(square(16)), grey_range(square(15))])
    assert never_seen(grey_range(square(16)), training) == []
    flags = never_seen(grey_range(square(12)), training)
    assert [flag.partition("=")[0] for flag in flags] == ["grey_levels", "grey_spread"]
    assert grey_range(square(12))["levels"] <= 17 < FEW_LEVELS


def test_an_unknown_distribution_flags_nothing():
    assert never_seen({"levels": 1, "spread": 0}, None) == []
