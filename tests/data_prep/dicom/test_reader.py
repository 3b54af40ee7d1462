import contextlib
import io
import itertools

import cv2
import numpy as np
import pydicom
import pytest
import simplejpeg
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame

from data_prep.dicom import DicomRefusal, read_radiograph

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

LOSSLESS = (
    "implicit",
    "explicit",
    "big_endian",
    "deflated",
    "rle",
    "jpeg_lossless",
    "jpeg_ls",
    "jpeg_2000",
)
# The largest difference from the phantom, in grey levels of 255.
BOUND = dict.fromkeys(LOSSLESS, 1.0) | {
    "jpeg_baseline": 8.0,
    "jpeg_ls_near": 3.0,
    "jpeg_2000_lossy": 2.0,
}


def code_of(data):
    with pytest.raises(DicomRefusal) as refusal:
        read_radiograph(data)
    return refusal.value.code


def edited(data, **attributes):
    """The file with other attributes; None removes one."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("syntax", "bits"),
    [
        (syntax, bits)
        for syntax, bits in itertools.product(BOUND, (8, 10, 12, 16))
        if syntax != "jpeg_baseline" or bits == 8
    ],
)
def test_one_phantom_in_every_encoding_gives_one_image(
    phantom, make_dicom, syntax, photometric, bits
):
    white = 2**bits - 1
    for signed, rescaled in itertools.product((False, True), (False, True)):
        if signed and syntax in ("jpeg_baseline", "jpeg_ls_near"):
            continue  # no sign in the first; in the second, errors carry -128 over to 126
        shown = 1 - phantom if photometric == "MONOCHROME1" else phantom
        stored = np.rint(shown * white).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
        dtype = f"{'int' if signed else 'uint'}{8 if bits == 8 else 16}"
        attributes = {"PhotometricInterpretation": photometric}
        if rescaled:
            low, high = 0.5 * stored.min() - 100, 0.5 * stored.max() - 100
            attributes |= {"RescaleSlope": "0.5", "RescaleIntercept": "-100"}
            attributes |= {"WindowCenter": (low + high + 1) / 2, "WindowWidth": high - low + 1}
        data = make_dicom(stored.astype(dtype), bits=bits, syntax=syntax, **attributes)
        image = read_radiograph(data).image
        assert image.dtype == (np.uint8 if bits == 8 else np.uint16)
        difference = np.abs(image / np.iinfo(image.dtype).max - phantom).max() * 255
        assert difference <= BOUND[syntax], (signed, rescaled)


def test_a_jpeg_frame_is_what_two_other_decoders_make_of_it(phantom, make_dicom):
    data = make_dicom(np.uint8(phantom * 255), syntax="jpeg_baseline")
    dataset = pydicom.dcmread(io.BytesIO(data))
    frame = np.frombuffer(get_frame(dataset.PixelData, 0, number_of_frames=1), np.uint8)
    image = read_radiograph(data).image
    np.testing.assert_array_equal(image, cv2.imdecode(frame, cv2.IMREAD_UNCHANGED))
    assert np.abs(image.astype(int) - dataset.pixel_array).max() <= 1


def test_a_path_and_its_bytes_are_the_same(phantom, make_dicom, tmp_path):
    data = make_dicom(np.uint8(phantom * 255))
    (tmp_path / "film.dcm").write_bytes(data)
    np.testing.assert_array_equal(
        read_radiograph(tmp_path / "film.dcm").image, read_radiograph(data).image
    )


@pytest.mark.parametrize(
    ("code", "attributes"),
    [
        ("bad_header", {"PhotometricInterpretation": None}),
        ("bad_header", {"Rows": None}),
        ("bad_header", {"Rows": 0}),
        ("bad_header", {"BitsStored": 17}),
        ("bad_header", {"BitsAllocated": 32}),
        ("bad_header", {"RescaleSlope": "0", "RescaleIntercept": "0"}),
        ("not_monochrome", {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}),
        ("not_monochrome", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("multi_frame", {"NumberOfFrames": "2"}),
        ("too_large", {"Rows": 65535, "Columns": 65535}),
        ("truncated", {"Rows": 65}),
        ("excess_data", {"Rows": 60}),
        ("bad_bits", {"BitsStored": 8, "HighBit": 7}),
        ("no_pixel_data", {"PixelData": None}),
    ],
)
def test_a_header_that_cannot_be_right_is_refused_by_name(phantom, make_dicom, code, attributes):
    data = make_dicom(np.uint16(phantom * 4095), bits=12)
    assert code_of(edited(data, **attributes)) == code


def test_what_is_not_dicom():
    assert code_of(b"") == "not_dicom"
    assert code_of(b"<!DOCTYPE html><html><body>Sign in</body></html>") == "not_dicom"
    assert code_of(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n") == "not_dicom"
    assert code_of(b"\0" * 4096) == "not_dicom"


def test_no_such_file(tmp_path):
    assert code_of(tmp_path / "none.dcm") == "unreadable"
    assert code_of(tmp_path) == "not_a_file"
    assert code_of("/dev/zero") == "not_a_file"


def test_a_file_that_is_too_big_is_not_read(tmp_path):
    with (tmp_path / "big.dcm").open("wb") as file:
        file.truncate(1 << 40)
    assert code_of(tmp_path / "big.dcm") == "too_large"


@pytest.mark.parametrize("syntax", ["explicit", "jpeg_baseline", "jpeg_2000", "deflated", "rle"])
def test_a_file_cut_off_in_the_pixels_is_refused(phantom, make_dicom, syntax):
    data = make_dicom(np.uint8(phantom * 255), syntax=syntax)
    assert code_of(data[: len(data) * 3 // 4]) == "truncated"


def test_a_constant_image_is_refused(make_dicom):
    assert code_of(make_dicom(np.full((64, 64), 7, np.uint8))) == "constant"
    almost = np.full((64, 64), 7, np.uint8)
    almost[31, 31] = 8
    assert read_radiograph(make_dicom(almost)).image.max() == 8


def test_a_deflate_bomb_is_not_inflated(make_dicom):
    bomb = make_dicom(np.zeros((256, 256), np.uint8), syntax="deflated", PixelData=bytes(200 << 20))
    assert len(bomb) < 1 << 20
    with pytest.raises(DicomRefusal, match="inflates") as refusal:
        read_radiograph(bomb, max_pixels=1 << 20)
    assert refusal.value.code == "too_large"


def test_a_compressed_frame_must_have_the_size_of_the_header(phantom, make_dicom):
    bomb = bytearray(make_dicom(np.uint8(phantom * 255), syntax="jpeg_baseline"))
    start = bomb.index(b"\xff\xc0")
    bomb[start + 5 : start + 9] = b"\xff\xdc\xff\xdc"  # 65500 x 65500 in the frame
    assert code_of(bytes(bomb)) == "undecodable"


def test_a_colour_frame_under_a_monochrome_header(phantom, make_dicom):
    data = make_dicom(np.uint8(phantom * 255), syntax="jpeg_baseline")
    colour = simplejpeg.encode_jpeg(np.repeat(np.uint8(phantom * 255)[..., None], 3, 2), 95, "RGB")
    assert code_of(edited(data, PixelData=encapsulate([colour]))) == "undecodable"


def test_a_damaged_jpeg_frame_is_refused_and_not_decoded_to_mush(phantom, make_dicom):
    data = make_dicom(np.uint8(phantom * 255), syntax="jpeg_baseline")
    frame = get_frame(pydicom.dcmread(io.BytesIO(data)).PixelData, 0, number_of_frames=1)
    broken = frame[: len(frame) // 2] + b"\xff\xd9"  # a whole file around half an image
    assert cv2.imdecode(np.frombuffer(broken, np.uint8), cv2.IMREAD_UNCHANGED) is not None
    assert code_of(edited(data, PixelData=encapsulate([broken]))) == "undecodable"


def test_padding_after_the_pixels_is_no_excess(phantom, make_dicom):
    stored = np.uint8(phantom * 255)
    padded = make_dicom(stored, PixelData=stored.tobytes() + bytes(1000))
    np.testing.assert_array_equal(read_radiograph(padded).image, stored)


def test_a_missing_transfer_syntax_is_guessed(phantom, make_dicom):
    stored = np.uint16(phantom * 4095)
    for syntax in ("implicit", "explicit"):
        data = make_dicom(stored, bits=12, syntax=syntax)
        without_meta = data[data.index(b"\x08\x00\x16\x00") :]
        np.testing.assert_array_equal(
            read_radiograph(without_meta).image, read_radiograph(data).image
        )


def test_an_unknown_transfer_syntax(phantom, make_dicom):
    data = make_dicom(np.uint8(phantom * 255))
    assert code_of(data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.7\0")) == (
        "undecodable"
    )


def test_files_of_pydicom():
    small = read_radiograph(get_testdata_file("MR_small.dcm")).image
    for name in ("MR_small_RLE", "MR_small_bigendian", "MR_small_jpeg_ls_lossless"):
        np.testing.assert_array_equal(
            read_radiograph(get_testdata_file(f"{name}.dcm")).image, small
        )
    assert read_radiograph(get_testdata_file("JPGExtended.dcm")).image.max() == 4225  # 264 of 4095
    assert code_of(get_testdata_file("rtplan.dcm")) == "no_pixel_data"


def test_a_scan_header_without_its_end_is_repaired():
    """Two real chest radiographs in JPEG Extended, 12 bits, say Se = 0; dcmtk decodes them."""
    path = get_testdata_file("JPGExtended.dcm")
    dataset = pydicom.dcmread(path)
    frame = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
    end = frame.index(b"\xff\xda") + 8
    assert frame[end] == 63
    frame[end] = 0
    dataset.PixelData = encapsulate([bytes(frame)])
    stream = io.BytesIO()
    dataset.save_as(stream)
    np.testing.assert_array_equal(
        read_radiograph(stream.getvalue()).image, read_radiograph(path).image
    )


def test_odd_and_broken_files(shared_data):
    folder = shared_data / "dicom_variants"
    found = {}
    for path in sorted(folder.glob("*.dcm")):
        try:
            found[path.stem] = read_radiograph(path).image
        except DicomRefusal as refusal:
            found[path.stem] = refusal.code
    assert {name: what for name, what in found.items() if isinstance(what, str)} == {
        "constant_ones_256_uint16": "constant",
        "git_lfs_pointer": "not_dicom",
        "html_page_saved_as": "not_dicom",
        "no_transfer_syntax": "bad_header",
        "unparsable_sample": "not_dicom",
    }
    np.testing.assert_array_equal(
        found["jpeg_monochrome2"], 255 - found["jpeg_relabelled_monochrome1"]
    )
    fuji = found["cr_monochrome1_10bit_implicit"]
    assert fuji[:, :40].mean() < fuji[:, 200:240].mean()  # air beside the patient is black


def test_a_real_radiograph_is_the_frame_in_it(shared_data):
    path = next((shared_data / "rsna_sample" / "stage_2_train_images").glob("*.dcm"))
    assert (
        np.abs(read_radiograph(path).image.astype(int) - pydicom.dcmread(path).pixel_array).max()
        <= 1
    )


@pytest.mark.parametrize("syntax", BOUND)
def test_mutated_files_are_an_image_or_a_refusal(phantom, make_dicom, syntax):
    """A sample of what benchmarks/fuzz_dicom.py does to thousands of files."""
    data = make_dicom(np.uint8(phantom * 255), syntax=syntax)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        mutated = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(128, len(data), 1 + seed % 8)
        mutated[places] = rng.integers(0, 256, len(places))
        cut = int(rng.integers(0, len(data))) if seed % 3 == 0 else len(data)
        with contextlib.suppress(DicomRefusal):  # anything else fails
            assert read_radiograph(mutated[:cut].tobytes()).image.ndim == 2


@pytest.mark.parametrize(("syntax", "bits"), [("jpeg_2000", 12), ("jpeg_baseline", 8)])
def test_a_codec_with_fewer_bits_than_the_header_claims(phantom, make_dicom, syntax, bits):
    stored = np.rint(phantom * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)
    data = make_dicom(stored, bits=bits, syntax=syntax)
    claimed = edited(data, BitsAllocated=16, BitsStored=16, HighBit=15)
    np.testing.assert_array_equal(read_radiograph(claimed).image, read_radiograph(data).image)
