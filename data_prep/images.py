"""One image file of any kind -> one canonical grey image, or a typed refusal.

DICOM, PNG, JPEG and TIFF are told apart by their content, never by the name of the file.
"""

import io
import os
import re
import warnings
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pydicom
import simplejpeg
from PIL import ExifTags, Image

from data_prep.dicom import MAX_PIXELS, DicomRefusal, Radiograph, read_radiograph
from data_prep.dicom.header import read_header
from data_prep.dicom.reader import load_file, refuse_constant

# Oddities are refusals here, or harmless.
warnings.filterwarnings("ignore", module="PIL")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

FORMATS = ("dicom", "png", "jpeg", "tiff")
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",  # BigTIFF
    b"MM\0+": "tiff",
}
# The modes of Pillow that can hold grey pixels of 8 or 16 bits.
_GREY = {"L", "I;16", "I;16B"}
_MAYBE_GREY = {"LA", "P", "PA", "RGB", "RGBA"}
# A grey JPEG in colour has both chroma values 128. One of an encoder that rounds otherwise has 127
# or 129: then R, G and B differ by up to 1.772 + 1.402, and by a level more once they are rounded.
_MAX_CHROMA = 4


def read_image(
    source: str | os.PathLike[str] | bytes, *, voi: str = "first", max_pixels: int = MAX_PIXELS
) -> Radiograph:
    """Reads and decodes one monochrome radiograph: DICOM, PNG, JPEG or TIFF, 8 or 16 bits.

    A PNG, JPEG or TIFF may be stored in colour if every pixel is grey. Its greys are taken as they
    are: such a file does not say how many of its bits are in use, nor which window to apply.

    Args:
      source: a path, or the bytes of a file.
      voi: of DICOM: "first" applies the VOI LUT or the first window, "none" neither.
      max_pixels: more pixels than this are refused before anything is allocated for them.

    Returns:
      The image, and a header with the same keys for every format: what a file without a header
      cannot say is "" or None. `format` is one of `FORMATS`.

    Raises:
      DicomRefusal: whatever is wrong with the file. Nothing else is raised for a bad file.
    """
    if voi not in ("first", "none"):
        raise ValueError(f"voi is 'first' or 'none', not {voi!r}")
    # Pillow's plugins raise nearly everything on hostile bytes, so the except is broad.
    try:
        data = source if isinstance(source, bytes) else load_file(source, 2 * max_pixels)
        kind = image_format(data)
        if kind == "dicom":
            radiograph = read_radiograph(data, voi=voi, max_pixels=max_pixels)
            return Radiograph(radiograph.image, radiograph.header | {"format": kind})
        image = _decode(data, kind, max_pixels)
    except DicomRefusal:
        raise
    except (MemoryError, Image.DecompressionBombError):
        raise DicomRefusal("too_large", "decoding it needs more memory than allowed") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        code = "truncated" if re.search("truncated|premature", reason, re.I) else "undecodable"
        raise DicomRefusal(code, f"it cannot be decoded ({reason})") from error
    refuse_constant(image)
    return Radiograph(image, _header(image) | {"format": kind})


def image_format(data: bytes) -> str:
    """One of `FORMATS`: DICOM unless the first bytes are another format's."""
    # A DICOM file may begin with 128 bytes of its own, even with the header of a TIFF.
    if data[128:132] != b"DICM":
        for signature, kind in _SIGNATURES.items():
            if data.startswith(signature):
                return kind
    return "dicom"


def _header(image: np.ndarray) -> dict[str, Any]:
    """The header of a file that has none. (A resolution in dots per inch is that of a print.)"""
    dataset = pydicom.Dataset()
    dataset.Rows, dataset.Columns = image.shape
    return read_header(dataset)


def _decode(data: bytes, kind: str, max_pixels: int) -> np.ndarray:
    """The grey image of a PNG, JPEG or TIFF; nothing is decoded before `_check` allows it."""
    picture = _open(data, kind, max_pixels)
    if kind == "png":
        picture.verify()  # the checksums, which decoding skips; nothing else can be done after it
        picture = _open(data, kind, max_pixels)
    _check(picture)
    if kind == "jpeg":
        return _decode_jpeg(data, picture.mode)
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    bits = set(tags[258]) if tags else {data[24]}
    if tags and (bits - {8, 16} or set(tags.get(339, (1,))) != {1}):
        raise DicomRefusal(
            "bad_header",
            f"TIFF with BitsPerSample {tags[258]}, SampleFormat {tags.get(339, (1,))}; "
            "only unsigned integers of 8 or 16 bits are read",
        )
    if picture.mode in _GREY and not picture.has_transparency_data:
        pixels = np.asarray(picture)
        if pixels.dtype == np.uint8:
            return pixels
        # Pillow inverts 8 bits for PhotometricInterpretation 0 (MinIsWhite), but not 16.
        return (65535 - pixels if tags.get(262) == 0 else pixels).astype(np.uint16)
    if bits == {16}:
        # Pillow has no 16-bit colour and would drop the lower byte.
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is None:
            raise DicomRefusal("undecodable", "its 16-bit pixels are damaged")
        return _drop_colour(deep)
    return _drop_colour(np.asarray(picture.convert("RGBA")))


def _open(data: bytes, kind: str, max_pixels: int) -> Image.Image:
    """The picture, of which only the header is read yet."""
    picture = Image.open(io.BytesIO(data), formats=[kind.upper()])
    columns, rows = picture.size
    if rows * columns > max_pixels:
        raise DicomRefusal("too_large", f"{rows} x {columns} is more than {max_pixels:,} pixels")
    return picture


def _check(picture: Image.Image) -> None:
    """Refuses a file that is not a single grey image, or whose tag says that it is turned."""
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise DicomRefusal("multi_frame", f"it holds {frames} images")
    if picture.mode in ("1", "I", "F"):
        raise DicomRefusal(
            "bad_header", f"pixels of mode {picture.mode!r} (Pillow), not of 8 or 16 bits"
        )
    if picture.mode not in _GREY | _MAYBE_GREY:
        raise DicomRefusal("not_monochrome", f"its pixels are {picture.mode}")
    # Some programs turn such an image and some do not, so nobody knows to which of the two its
    # boxes and its label belong. Radiographic software writes no such tag.
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation != 1:
        raise DicomRefusal(
            "bad_header",
            f"Orientation is {orientation}: the pixels are turned, or the tag is wrong; turn the "
            "pixels and remove the tag",
        )


def _decode_jpeg(data: bytes, mode: str) -> np.ndarray:
    # Strict, so that a damaged file is an error, not grey mush.
    if mode != "L":
        colour = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
        _check_grey(cv2.split(colour), _MAX_CHROMA)
    return simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)[:, :, 0]


def _drop_colour(pixels: np.ndarray) -> np.ndarray:
    """H x W x 3 or 4, of which the fourth is alpha, -> H x W."""
    red, green, blue, *alpha = cv2.split(pixels)
    if alpha and np.ptp(alpha) > 0:
        raise DicomRefusal("not_monochrome", "some of its pixels are transparent")
    _check_grey((red, green, blue), 0)
    return red


def _check_grey(colour: Sequence[np.ndarray], tolerance: int) -> None:
    """Refuses an image of which any pixel has different red, green and blue."""
    red, green, blue = colour  # cv2, because numpy takes 20 times as long
    spread = cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)
    if spread.max() > tolerance:
        raise DicomRefusal(
            "not_monochrome", f"coloured pixels: {np.count_nonzero(spread > tolerance):,}"
        )
