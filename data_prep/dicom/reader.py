"""Reads and decodes a DICOM file; whatever is wrong with it becomes a refusal."""

import dataclasses
import io
import logging
import os
import warnings
import zlib
from typing import Any

import numpy as np
import pydicom
import simplejpeg
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import encapsulate, get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder

from data_prep.dicom.codestream import parse_codestream, repair_scan
from data_prep.dicom.grey import to_grey
from data_prep.dicom.header import HEADER_KEYWORDS, read_header
from data_prep.dicom.refusal import REFUSAL_CODES, DicomRefusal
from data_prep.files.regular_files import NotAFileError, TooLargeError, read_bytes

# pydicom logs and warns on each oddity, with tracebacks; here they are refusals or harmless.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module="pydicom")

MAX_PIXELS = 1 << 26  # eight times a full-size 0.1 mm detector
_MAX_HEADER_BYTES = 1 << 26

_PIXEL_KEYWORDS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
    "PixelData",
)
# Only these are parsed: a file's other thousand elements can neither slow nor break parsing.
_TAGS: list[Any] = [
    tag_for_keyword(keyword) for keyword in (*_PIXEL_KEYWORDS, *HEADER_KEYWORDS)
] + [group << 16 | 0x0102 for group in range(0x6000, 0x6020, 2)]  # OverlayBitPosition


@dataclasses.dataclass(frozen=True)
class Radiograph:
    """A decoded radiograph.

    Attributes:
      image: H x W, uint8 or uint16 over the full range of the type; the background is black.
      header: what the file says about it, in plain types: strings ("" when missing), `rows` and
        `columns` (int), `patient_age` (years) and `pixel_spacing` (mm), both float or None.
    """

    image: np.ndarray
    header: dict[str, Any]


def read_radiograph(
    source: str | os.PathLike[str] | bytes, *, voi: str = "first", max_pixels: int = MAX_PIXELS
) -> Radiograph:
    """Reads and decodes one monochrome radiograph.

    Args:
      source: a path, or the bytes of a DICOM file.
      voi: "first" applies the VOI LUT or the first window, "none" neither.
      max_pixels: more pixels than this are refused before anything is allocated for them.

    Raises:
      DicomRefusal: whatever is wrong with the file. Nothing else is raised for a bad file.
    """
    if voi not in ("first", "none"):
        raise ValueError(f"voi is 'first' or 'none', not {voi!r}")
    # Parsers raise nearly everything on hostile bytes (struct.error, RecursionError, ...), so the
    # except is broad, and `doing` says which refusal it is.
    doing = "not_dicom"
    try:
        data = source if isinstance(source, bytes) else load_file(source, 2 * max_pixels)
        dataset, syntax = _parse(data, 2 * max_pixels)
        doing = "bad_header"
        _check(dataset, syntax, max_pixels)
        header = read_header(dataset)
        doing = "undecodable"
        stored, bits = _decode(dataset, syntax)
        doing = "bad_header"
        image = to_grey(dataset, stored, bits, voi)
    except DicomRefusal:
        raise
    except MemoryError:
        raise DicomRefusal("too_large", "decoding it needs more memory than allowed") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DicomRefusal(doing, f"{REFUSAL_CODES[doing]} ({reason})") from error
    refuse_constant(image)
    return Radiograph(image, header)


def refuse_constant(image: np.ndarray) -> None:
    """Raises `DicomRefusal` where every pixel has the same value."""
    # A thousandth of the pixels is enough to see that most images are not constant.
    if np.ptp(image.ravel()[::1021]) == 0 and np.ptp(image) == 0:
        raise DicomRefusal("constant", f"every pixel has the value {image.flat[0]}")


def load_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The bytes of a file with at most `max_bytes` of pixels. Raises `DicomRefusal`."""
    try:
        return read_bytes(path, max_bytes + _MAX_HEADER_BYTES)
    except NotAFileError as error:
        raise DicomRefusal("not_a_file", str(error.strerror)) from error
    except TooLargeError as error:
        raise DicomRefusal("too_large", str(error.strerror)) from error
    except OSError as error:
        raise DicomRefusal("unreadable", f"{error.strerror or error}") from error


def _parse(data: bytes, max_bytes: int) -> tuple[pydicom.Dataset, uid.UID]:
    """The elements in `_TAGS` and the transfer syntax, guessed where the file does not name it."""
    stream = io.BytesIO(data)
    has_preamble = data[128:132] == b"DICM"
    stream.seek(132 if has_preamble else 0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
    syntax = uid.UID(meta.get("TransferSyntaxUID") or "")
    if not syntax:
        dataset: pydicom.Dataset = pydicom.dcmread(
            io.BytesIO(data), force=True, specific_tags=list(_TAGS)
        )
        implicit, little = dataset.original_encoding
        if not little:
            syntax = uid.ExplicitVRBigEndian
        else:
            syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        if not dataset.get("PixelData") and not dataset.get("SOPClassUID"):
            raise DicomRefusal("not_dicom", f"neither a DICOM prefix nor an image: {data[:16]!r}")
    elif syntax.is_private or not syntax.is_transfer_syntax:
        raise DicomRefusal("undecodable", f"transfer syntax {syntax[:64]} is not known")
    else:
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            stream = io.BytesIO(_inflate(data[stream.tell() :], max_bytes + _MAX_HEADER_BYTES))
            syntax = uid.ExplicitVRLittleEndian
        dataset = read_dataset(
            stream, syntax.is_implicit_VR, syntax.is_little_endian, specific_tags=list(_TAGS)
        )
    if not dataset.get("PixelData"):
        # The reader drops an element that the file's end cuts off, so look for its tag.
        if b"\xe0\x7f\x10\x00" in data or b"\x7f\xe0\x00\x10" in data:
            raise DicomRefusal("truncated", "the file ends inside the pixel data")
        raise DicomRefusal("no_pixel_data", REFUSAL_CODES["no_pixel_data"])
    return dataset, syntax


def _inflate(data: bytes, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data, max_bytes)
    if inflater.unconsumed_tail:
        raise DicomRefusal("too_large", f"it inflates to more than {max_bytes:,} bytes")
    if not inflater.eof:
        raise DicomRefusal("truncated", "the deflated data set ends early")
    return inflated


def _check(dataset: pydicom.Dataset, syntax: uid.UID, max_pixels: int) -> None:
    """Refuses what is no single-frame monochrome image of a bearable size."""
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if not photometric:
        raise DicomRefusal("bad_header", "PhotometricInterpretation is missing")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise DicomRefusal("not_monochrome", f"PhotometricInterpretation is {photometric[:32]}")
    if _integer(dataset, "SamplesPerPixel", 1) != 1:
        raise DicomRefusal("not_monochrome", f"SamplesPerPixel is {dataset.SamplesPerPixel}")
    if _integer(dataset, "NumberOfFrames", 1) > 1:
        raise DicomRefusal("multi_frame", f"NumberOfFrames is {dataset.NumberOfFrames}")
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    allocated, bits = _integer(dataset, "BitsAllocated"), _integer(dataset, "BitsStored")
    if rows < 1 or columns < 1:
        raise DicomRefusal("bad_header", f"{rows} x {columns} pixels")
    if rows * columns > max_pixels:
        raise DicomRefusal("too_large", f"{rows} x {columns} is more than {max_pixels:,} pixels")
    if allocated not in (8, 16) or not 1 < bits <= allocated:
        raise DicomRefusal("bad_header", f"{bits} bits stored in {allocated}")
    if _integer(dataset, "PixelRepresentation", 0) not in (0, 1):
        raise DicomRefusal("bad_header", f"PixelRepresentation is {dataset.PixelRepresentation}")
    if syntax.is_encapsulated:
        return
    expected, actual = rows * columns * allocated // 8, len(dataset.PixelData)
    if actual < expected:
        raise DicomRefusal("truncated", f"{actual:,} of {expected:,} bytes of pixel data")
    surplus = dataset.PixelData[expected:]
    if len(surplus) >= columns * allocated // 8 and surplus.strip(b"\0"):  # else it is padding
        raise DicomRefusal("excess_data", f"{actual:,} bytes of pixel data, not {expected:,}")


def _decode(dataset: pydicom.Dataset, syntax: uid.UID) -> tuple[np.ndarray, int]:
    """The stored values, H x W, and how many bits they use."""
    rows, columns, bits = dataset.Rows, dataset.Columns, dataset.BitsStored
    signed = int(dataset.get("PixelRepresentation", 0))
    pixel_data = dataset.PixelData
    if syntax.is_encapsulated and syntax != uid.RLELossless:
        original = get_frame(pixel_data, 0, number_of_frames=1)
        frame = repair_scan(original)
        if frame != original:
            pixel_data = encapsulate([frame])
        found = parse_codestream(frame)
        if (found.rows, found.columns, found.components) != (rows, columns, 1):
            raise DicomRefusal(
                "undecodable",
                f"the header says {rows} x {columns} x 1, the compressed frame "
                f"{found.rows} x {found.columns} x {found.components}",
            )
        # A codec with fewer bits than BitsStored cannot hold more; one with more may be a
        # 16-bit container.
        bits = min(bits, found.precision)
        if syntax == uid.JPEGBaseline8Bit and found.precision == 8 and not signed:
            # Straight to libjpeg-turbo; strict, so that a damaged frame is an error, not grey mush.
            image = simplejpeg.decode_jpeg(frame, colorspace="GRAY", strict=True)
            return image[:, :, 0], bits
    options: dict[str, Any] = {
        "raw": True,
        "index": 0,
        # The header's claim about unused bits is checked later, not enforced by masking.
        "correct_unused_bits": False,
        "pixel_keyword": "PixelData",
        "pixel_vr": dataset["PixelData"].VR,
        "rows": rows,
        "columns": columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "bits_allocated": dataset.BitsAllocated,
        "bits_stored": dataset.BitsStored,
        "pixel_representation": signed,
        "photometric_interpretation": dataset.PhotometricInterpretation,
    }
    stored, _ = get_decoder(syntax).as_array(pixel_data, **options)
    return stored, bits


def _integer(dataset: pydicom.Dataset, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is None:
            raise DicomRefusal("bad_header", f"{keyword} is missing")
        return default
    return int(value)
