import contextlib
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from data_prep.dicom import DicomRefusal, read_radiograph
from data_prep.images import FORMATS, read_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.fixture
def grey(phantom):
    return np.uint8(phantom * 255)


@pytest.fixture
def deep(phantom):
    return np.uint16(phantom * 65535)


def code_of(source, **how):
    with pytest.raises(DicomRefusal) as refusal:
        read_image(source, **how)
    return refusal.value.code


def saved(image, kind, **options):
    """An array or a Pillow image as the bytes of a file."""
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain_tiff(pixels, *, photometric=1, sample_format=1, order="<", bits=None):
    """An uncompressed TIFF of one strip, written by hand from the specification."""
    height, width = pixels.shape[:2]
    channels = pixels.size // (height * width)
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    bits = bits or 8 * pixels.dtype.itemsize
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    bits_at = 8 + len(data) + 2 + 10 * 12 + 4
    short, long = 3, 4
    tags = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, channels, bits if channels == 1 else bits_at),
        (259, short, 1, 1),
        (262, short, 1, photometric),
        (273, long, 1, 8),
        (277, short, 1, channels),
        (278, long, 1, height),
        (279, long, 1, len(data)),
        (339, short, 1, sample_format),
    ]
    folder = struct.pack(order + "H", len(tags))
    for tag, kind, count, value in tags:
        inline = kind == short and count == 1
        number = struct.pack(
            order + ("HH" if inline else "I"), *((value, 0) if inline else (value,))
        )
        folder += struct.pack(order + "HHI", tag, kind, count) + number
    return head + data + folder + bytes(4) + struct.pack(order + f"{channels}H", *[bits] * channels)


def test_every_format_by_content_and_not_by_name(grey, make_dicom, tmp_path):
    files = {
        "dicom": make_dicom(grey),
        "png": saved(grey, "PNG"),
        "jpeg": saved(grey, "JPEG", quality=100),
        "tiff": saved(grey, "TIFF"),
    }
    assert tuple(files) == FORMATS
    for number, (kind, data) in enumerate(files.items()):
        path = tmp_path / f"film{number}.dcm"
        path.write_bytes(data)
        found = read_image(path)
        assert found.header["format"] == kind
        assert np.abs(found.image.astype(int) - grey).max() <= (2 if kind == "jpeg" else 0)
        np.testing.assert_array_equal(read_image(data).image, found.image)


def test_a_dicom_file_is_read_as_before(deep, make_dicom):
    data = make_dicom(deep, WindowCenter=20000, WindowWidth=9000)
    for voi in ("first", "none"):
        before, now = read_radiograph(data, voi=voi), read_image(data, voi=voi)
        np.testing.assert_array_equal(now.image, before.image)
        assert now.header == before.header | {"format": "dicom"}
    # A DICOM file may begin as a TIFF does.
    assert read_image(b"II*\0" + data[4:]).header["format"] == "dicom"


def test_a_file_without_a_header_has_the_same_keys_and_says_nothing(grey, make_dicom):
    header = read_image(saved(grey, "PNG", dpi=(300, 300))).header
    assert header.keys() == read_image(make_dicom(grey)).header.keys()
    known = {"rows": 64, "columns": 64, "format": "png"}
    unknown = {"patient_age": None, "pixel_spacing": None}
    assert header == dict.fromkeys(header, "") | known | unknown


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_lossless_grey_in_whatever_it_is_stored(grey, deep, kind):
    rgb = np.stack([grey] * 3, axis=2)
    palette = Image.fromarray(255 - grey, "P")
    palette.putpalette(np.repeat(np.arange(255, -1, -1), 3).tolist())
    for stored in (
        grey,
        rgb,
        np.dstack([rgb, np.full_like(grey, 255)]),
        Image.merge("LA", [Image.fromarray(grey), Image.new("L", grey.shape, 7)]),
        palette,
    ):
        np.testing.assert_array_equal(read_image(saved(stored, kind)).image, grey)
    found = read_image(saved(deep, kind)).image
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, deep)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bits_stored_in_colour_keep_their_depth(deep, suffix, alpha):
    stored = np.dstack([deep] * 3 + [np.full_like(deep, 65535)] * alpha)
    found = read_image(cv2.imencode(suffix, stored)[1].tobytes()).image
    np.testing.assert_array_equal(found, deep)


@pytest.mark.parametrize(("order", "bits"), [("<", 8), (">", 8), ("<", 16)])
def test_min_is_white_comes_out_with_a_black_background(grey, deep, order, bits):
    pixels = grey if bits == 8 else deep
    for photometric, stored in ((1, pixels), (0, ~pixels)):
        found = read_image(plain_tiff(stored, photometric=photometric, order=order)).image
        np.testing.assert_array_equal(found, pixels)


def test_sixteen_bits_in_the_other_byte_order(deep):
    found = read_image(plain_tiff(deep, order=">")).image
    assert found.dtype == np.uint16  # of this machine's byte order
    np.testing.assert_array_equal(found, deep)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(deep, compression):
    found = read_image(saved(deep, "TIFF", compression=compression)).image
    np.testing.assert_array_equal(found, deep)


def test_a_grey_jpeg_in_colour_is_its_grey(grey):
    image = simplejpeg.encode_jpeg(grey[:, :, None], 95, "GRAY")
    colour = simplejpeg.encode_jpeg(np.stack([grey] * 3, axis=2), 95, colorsubsampling="420")
    np.testing.assert_array_equal(read_image(colour).image, read_image(image).image)


def test_chroma_rounded_by_one_is_grey_and_a_tint_is_not(grey):
    flat = np.full((*grey.shape, 3), 100, np.uint8)
    flat[:, 32:] = 180

    def tinted(by):
        return simplejpeg.encode_jpeg(flat + np.uint8([by, 0, by]), 100, colorsubsampling="444")

    assert read_image(tinted(2)).image.shape == grey.shape
    assert code_of(tinted(9)) == "not_monochrome"


def test_colour_is_refused(grey):
    coloured = np.stack([grey] * 3, axis=2)
    coloured[10:12, 10:12] = (200, 0, 0)  # a red marker
    for kind in ("PNG", "TIFF", "JPEG"):
        assert code_of(saved(coloured, kind)) == "not_monochrome"
    assert code_of(saved(Image.fromarray(coloured).quantize(), "PNG")) == "not_monochrome"
    for kind in ("TIFF", "JPEG"):
        assert code_of(saved(Image.fromarray(coloured).convert("CMYK"), kind)) == "not_monochrome"
    deep = coloured.astype(np.uint16) * 257
    assert code_of(cv2.imencode(".png", deep)[1].tobytes()) == "not_monochrome"


def test_transparency_must_be_the_same_everywhere(grey):
    picture = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(grey)])
    for kind in ("PNG", "TIFF"):
        assert code_of(saved(picture, kind)) == "not_monochrome"
    assert code_of(saved(grey, "PNG", transparency=int(grey[0, 0]))) == "not_monochrome"
    assert read_image(saved(grey // 2, "PNG", transparency=200)).image.max() == 127  # of no pixel


def test_bits_that_are_no_greys(grey, phantom):
    for kind in ("PNG", "TIFF"):
        assert code_of(saved(Image.fromarray(grey > 99), kind)) == "bad_header"
    assert code_of(saved(phantom.astype(np.float32), "TIFF")) == "bad_header"
    assert code_of(plain_tiff(phantom.astype(np.float32), sample_format=3)) == "bad_header"
    assert code_of(saved(grey.astype(np.int32), "TIFF")) == "bad_header"
    assert code_of(plain_tiff(grey, sample_format=2)) == "bad_header"
    assert code_of(plain_tiff(grey[:, :48], bits=12)) == "bad_header"


def test_more_than_one_image(grey):
    pages = {"save_all": True, "append_images": [Image.fromarray(255 - grey)]}
    assert code_of(saved(grey, "TIFF", **pages)) == "multi_frame"
    assert code_of(saved(grey, "PNG", **pages)) == "multi_frame"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_an_orientation_tag_is_refused(grey, kind):
    exif = Image.Exif()
    exif[0x0112] = 1
    assert read_image(saved(grey, kind, exif=exif)).image.shape == grey.shape
    exif[0x0112] = 6
    with pytest.raises(DicomRefusal, match="bad_header: Orientation is 6"):
        read_image(saved(grey, kind, exif=exif))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_size_damage_and_emptiness(grey, kind, tmp_path):
    data = saved(grey, kind)
    assert code_of(data, max_pixels=64 * 64 - 1) == "too_large"
    assert code_of(data[: len(data) // 2]) in ("truncated", "undecodable")
    assert code_of(saved(np.full_like(grey, 9), kind)) == "constant"
    assert code_of(tmp_path) == "not_a_file"
    assert code_of(tmp_path / "none.png") == "unreadable"


def test_a_bomb_is_refused_before_it_is_decoded(grey):
    data = bytearray(saved(grey, "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert code_of(bytes(data)) == "too_large"


def test_damage_that_still_decodes_is_found(grey):
    png = saved(grey[:, :60], "PNG")
    for place in range(33, len(png)):
        for bit in (1, 32):
            damaged = bytearray(png)
            damaged[place] ^= bit
            with contextlib.suppress(DicomRefusal):
                np.testing.assert_array_equal(read_image(bytes(damaged)).image, grey[:, :60])
    jpeg = saved(grey, "JPEG")
    assert code_of(jpeg[:-40]) == "truncated"


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"II*\0", b"\xff\xd8\xff"])
def test_no_image_at_all(data):
    assert code_of(data) in ("not_dicom", "undecodable", "truncated")


def test_mutated_files_are_an_image_or_a_refusal(grey, deep):
    rgb = np.stack([grey] * 3, axis=2)
    files = [
        saved(grey, "PNG"),
        saved(Image.fromarray(rgb).quantize(), "PNG"),
        cv2.imencode(".png", np.dstack([deep] * 3))[1].tobytes(),
        saved(rgb, "JPEG"),
        saved(deep, "TIFF", compression="tiff_lzw"),
        plain_tiff(grey),
        cv2.imencode(".tiff", np.dstack([deep] * 3))[1].tobytes(),
    ]
    for seed in range(210):
        data = files[seed % len(files)]
        rng = np.random.default_rng(seed)
        mutated = np.frombuffer(data, np.uint8).copy()
        # Half of the damage falls on the header, where there is more to go wrong.
        end = len(data) if seed % 2 else min(200, len(data))
        places = rng.integers(4, end, 1 + seed % 8)
        mutated[places] = rng.integers(0, 256, len(places))
        cut = int(rng.integers(0, len(data))) if seed % 3 == 0 else len(data)
        with contextlib.suppress(DicomRefusal):  # anything else fails
            image = read_image(mutated[:cut].tobytes(), max_pixels=1 << 20).image
            assert image.ndim == 2
            assert image.dtype in (np.uint8, np.uint16)
