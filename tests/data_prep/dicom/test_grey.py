import numpy as np
import pydicom
import pytest

from data_prep.dicom import DicomRefusal
from data_prep.dicom.grey import grey_table, to_grey

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def header(**attributes):
    dataset = pydicom.Dataset()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def lookup(entries, bits=8, first=0):
    item = pydicom.Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = list(entries)
    item["LUTData"].VR = "US"
    return [item]


def lookup_in_bytes(entries, bits=8, first=0, little=True):
    (item,) = lookup(entries, bits, first)
    item["LUTDescriptor"].VR = "SS"
    item.LUTData = np.array(entries).astype("<u2" if little else ">u2").tobytes()
    item["LUTData"].VR = "OW"
    item.set_original_encoding(False, little)
    return [item]


def test_scale_is_the_declared_bits_and_never_the_maximum():
    table = grey_table(header(), 12, 0, "first")
    assert (table[0], table[4095]) == (0, 65535)
    image = np.array([[0, 100]], np.uint16)
    brighter = np.array([[4095, 100]], np.uint16)
    assert (
        to_grey(header(), image, 12, "first")[0, 1]
        == to_grey(header(), brighter, 12, "first")[0, 1]
    )


def test_linear_window_is_the_standards():
    # PS3.3 C.11.2.1.2.1: values up to c - 0.5 - (w-1)/2 are black, from c - 0.5 + (w-1)/2 white.
    table = grey_table(header(WindowCenter="100", WindowWidth="51"), 8, 0, "first")
    assert table[74] == 0
    assert table[75] > 0
    assert table[124] < 255
    assert table[125] == 255
    assert table[100] == round(255 * ((100 - 99.5) / 50 + 0.5))


def test_the_first_of_several_windows():
    both = grey_table(header(WindowCenter=["50", "200"], WindowWidth=["20", "10"]), 8, 0, "first")
    first = grey_table(header(WindowCenter="50", WindowWidth="20"), 8, 0, "first")
    np.testing.assert_array_equal(both, first)


def test_no_window_when_none_is_asked_for():
    table = grey_table(header(WindowCenter="50", WindowWidth="20"), 8, 0, "none")
    np.testing.assert_array_equal(table, np.arange(256))


def test_exact_and_sigmoid_windows():
    exact = header(WindowCenter="128", WindowWidth="64", VOILUTFunction="LINEAR_EXACT")
    table = grey_table(exact, 8, 0, "first")
    assert (table[96], table[128], table[160]) == (0, 128, 255)
    sigmoid = header(WindowCenter="128", WindowWidth="64", VOILUTFunction="SIGMOID")
    table = grey_table(sigmoid, 8, 0, "first")
    assert table[128] == 128
    assert table[160] == round(255 / (1 + np.exp(-2)))


def test_an_impossible_window_is_none():
    table = grey_table(header(WindowCenter="50", WindowWidth="0"), 8, 0, "first")
    np.testing.assert_array_equal(table, np.arange(256))


def test_a_window_of_one_is_a_step():
    table = grey_table(header(WindowCenter="50", WindowWidth="1"), 8, 0, "first")
    assert set(table[:50]) == {0}
    assert set(table[50:]) == {255}


def test_the_window_is_in_rescaled_units():
    rescaled = header(
        RescaleSlope="2", RescaleIntercept="-100", WindowCenter="100", WindowWidth="101"
    )
    table = grey_table(rescaled, 8, 0, "first")
    assert table[74] == 0  # 2 * 74 - 100 = 48
    assert table[76] > 0
    assert table[100] == round(255 * (0.5 / 100 + 0.5))


def test_a_negative_slope_turns_the_image_over():
    table = grey_table(header(RescaleSlope="-1", RescaleIntercept="255"), 8, 0, "first")
    np.testing.assert_array_equal(table, np.arange(255, -1, -1))


def test_modality_lut():
    entries = list(range(0, 1024, 4))
    dataset = header(ModalityLUTSequence=lookup(entries, bits=10))
    table = grey_table(dataset, 8, 0, "first")
    np.testing.assert_array_equal(table, np.rint(np.array(entries) / 1023 * 255))


@pytest.mark.parametrize("little", [True, False])
def test_a_lookup_table_in_bytes_that_starts_below_zero(little):
    entries = list(range(0, 4096, 16))
    table = grey_table(
        header(VOILUTSequence=lookup_in_bytes(entries, 12, -128, little)), 8, -128, "first"
    )
    np.testing.assert_array_equal(table, np.rint(np.array(entries) / 4095 * 255))


def test_values_beyond_a_lookup_table_take_its_ends():
    table = grey_table(header(VOILUTSequence=lookup([10, 200], first=100)), 8, 0, "first")
    assert set(table[:101]) == {10}
    assert set(table[101:]) == {200}


def test_a_lookup_table_that_is_too_short_is_refused():
    (item,) = lookup([10, 200])
    item.LUTDescriptor = [3, 0, 8]
    with pytest.raises(DicomRefusal, match="bad_header"):
        grey_table(header(VOILUTSequence=[item]), 8, 0, "first")


def test_voi_lut_comes_before_a_window():
    entries = np.linspace(255, 0, 256).astype(int).tolist()
    dataset = header(VOILUTSequence=lookup(entries), WindowCenter="50", WindowWidth="20")
    np.testing.assert_array_equal(grey_table(dataset, 8, 0, "first"), entries)


@pytest.mark.parametrize(
    ("photometric", "shape", "is_inverted"),
    [
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),  # said twice, done once
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
def test_polarity_is_turned_once(photometric, shape, is_inverted):
    dataset = header(PhotometricInterpretation=photometric)
    if shape:
        dataset.PresentationLUTShape = shape
    table = grey_table(dataset, 8, 0, "first")
    np.testing.assert_array_equal(table, np.arange(256)[:: -1 if is_inverted else 1])


def test_polarity_is_turned_after_the_window():
    dataset = header(PhotometricInterpretation="MONOCHROME1", WindowCenter="50", WindowWidth="21")
    table = grey_table(dataset, 8, 0, "first")
    assert table[30] == 255
    assert table[70] == 0


def test_padding_is_black_whatever_the_polarity():
    dataset = header(PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
    assert grey_table(dataset, 8, 0, "first")[:2].tolist() == [0, 254]
    dataset.PixelPaddingRangeLimit = 3
    assert grey_table(dataset, 8, 0, "first")[:5].tolist() == [0, 0, 0, 0, 251]


def test_negative_padding():
    dataset = header(PixelPaddingValue=-2000)
    dataset["PixelPaddingValue"].VR = "SS"
    table = grey_table(dataset, 12, -2048, "first")
    assert table[48] == 0
    assert table[49] > 0


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_negative_padding_that_was_written_as_unsigned(polarity):
    dataset = header(PhotometricInterpretation=polarity, PixelPaddingValue=63536)  # -2000
    table = grey_table(dataset, 12, -2048, "first")
    assert table[48] == 0
    assert table[49] > 0


def test_signed_values():
    image = np.array([[-2048, -1, 2047]], np.int16)
    assert to_grey(header(), image, 12, "first").tolist() == [
        [0, round(2047 / 4095 * 65535), 65535]
    ]


def test_signed_values_without_their_sign_extended():
    stored = np.array([[-2048, -1, 2047]], np.int16)
    bare = stored & 0x0FFF
    np.testing.assert_array_equal(
        to_grey(header(HighBit=11), bare, 12, "first"),
        to_grey(header(HighBit=11), stored, 12, "first"),
    )


def test_left_aligned_values():
    stored = np.array([[0, 100, 4095]], np.uint16)
    np.testing.assert_array_equal(
        to_grey(header(HighBit=15), stored << 4, 12, "first"),
        to_grey(header(HighBit=11), stored, 12, "first"),
    )


def test_overlays_in_unused_bits_are_cut_off():
    stored = np.array([[0, 100, 4095]], np.uint16)
    with_overlay = header(HighBit=11)
    with_overlay.add_new(0x60000102, "US", 12)
    np.testing.assert_array_equal(
        to_grey(with_overlay, stored | 0x1000, 12, "first"),
        to_grey(header(HighBit=11), stored, 12, "first"),
    )


def test_a_marker_beyond_the_bits_is_white_and_a_whole_image_beyond_them_is_refused():
    stored = np.full((64, 64), 1000, np.uint16)
    stored[0, 0] = 65535
    grey = to_grey(header(HighBit=11), stored, 12, "first")
    assert grey[0, 0] == 65535
    assert grey[1, 1] == round(1000 / 4095 * 65535)
    stored[:32] = 5000
    with pytest.raises(DicomRefusal, match="bad_bits"):
        to_grey(header(HighBit=11), stored, 12, "first")


def test_fewer_than_eight_bits():
    stored = np.array([[0, 63]], np.uint8)
    assert to_grey(header(HighBit=5), stored, 6, "first").tolist() == [[0, 255]]


def test_an_infinite_number_is_refused():
    with pytest.raises(DicomRefusal, match="bad_header"):
        grey_table(header(WindowCenter="nan", WindowWidth="10"), 8, 0, "first")
