"""Stored pixel values -> a grey image with a black background (DICOM PS3.3 C.11.1, C.11.2).

Everything that happens after decoding is a function of the stored value alone, and there are at
most 65,536 of those. So it is computed once per possible value, in float64, and looked up.
"""

import math
from typing import Any

import cv2
import numpy as np
import pydicom

from data_prep.dicom.refusal import DicomRefusal

# With more pixels than this outside the declared bits (no mere marker), the header is wrong.
MAX_OUTSIDE = 0.01


def to_grey(dataset: pydicom.Dataset, stored: np.ndarray, bits: int, voi: str) -> np.ndarray:
    """Modality LUT or rescale, then VOI LUT or window, then polarity, then the full output range.

    Args:
      dataset: for the attributes that say how values are shown.
      stored: H x W integers as decoded.
      bits: how many bits the values use; they set the scale, not the image's maximum.
      voi: "first" applies the VOI LUT, or else the first window; "none" neither.

    Returns:
      H x W, black background: uint8 for up to 8 bits, else uint16.

    Raises:
      DicomRefusal: bad_bits, bad_header.
    """
    signed = np.issubdtype(stored.dtype, np.signedinteger)
    lowest = -(1 << (bits - 1)) if signed else 0
    stored = _within_bits(dataset, stored, bits, lowest)
    table = grey_table(dataset, bits, lowest, voi)
    if stored.dtype == np.uint8:
        identity = table.size == 256 and np.array_equal(table, np.arange(256))
        # cv2.LUT wants all 256 entries, also where fewer bits are in use.
        return stored if identity else cv2.LUT(stored, np.resize(table, 256))
    return table[(stored.astype(np.int32) - lowest).astype(np.uint16)]


def grey_table(dataset: pydicom.Dataset, bits: int, lowest: int, voi: str) -> np.ndarray:
    """The output grey of each of the 2**bits stored values from `lowest` up."""
    values = np.arange(lowest, lowest + (1 << bits))
    low, high = float(values[0]), float(values[-1])
    shown = values
    if dataset.get("ModalityLUTSequence"):
        shown, high = _look_up(dataset.ModalityLUTSequence[0], values)
        low = 0.0
    elif "RescaleSlope" in dataset:
        slope = _number(dataset, "RescaleSlope", 1.0)
        intercept = _number(dataset, "RescaleIntercept", 0.0)
        if slope == 0:
            raise DicomRefusal("bad_header", "RescaleSlope is 0")
        shown = values * slope + intercept
        low, high = sorted((low * slope + intercept, high * slope + intercept))
    fraction = _voi(dataset, shown) if voi == "first" else None
    if fraction is None:
        fraction = (shown - low) / (high - low)
    # Inverted once, after the window. A file may say so in either attribute, or in both.
    if (
        dataset.PhotometricInterpretation == "MONOCHROME1"
        or dataset.get("PresentationLUTShape") == "INVERSE"
    ):
        fraction = 1.0 - fraction
    white, depth = (255, np.uint8) if bits <= 8 else (65535, np.uint16)
    table = np.rint(np.clip(fraction, 0.0, 1.0) * white).astype(depth)
    table[_is_padding(dataset, values)] = 0
    return table


def _voi(dataset: pydicom.Dataset, values: np.ndarray) -> np.ndarray | None:
    """The VOI LUT, or else the first window, as fractions of white; None without either."""
    if dataset.get("VOILUTSequence"):
        shown, white = _look_up(dataset.VOILUTSequence[0], np.rint(values).astype(np.int64))
        return shown / white
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if center is None or width is None:
        return None
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if function == "LINEAR" and width >= 1:
        # The standard's half-pixel conventions; a width of 1 is a step.
        return (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5
    if function == "LINEAR_EXACT" and width > 0:
        return (values - center) / width + 0.5
    if function == "SIGMOID" and width > 0:
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700, 700)))
    return None  # an impossible window is none: the declared bits are the scale then


def _within_bits(
    dataset: pydicom.Dataset, stored: np.ndarray, bits: int, lowest: int
) -> np.ndarray:
    """`stored` with every value inside the declared bits, or a refusal."""
    if stored.dtype == np.uint8 and bits == 8:
        return stored
    highest = lowest + (1 << bits) - 1
    shift = int(dataset.get("HighBit", bits - 1)) + 1 - bits
    if 0 < shift < 16 and not np.any(stored & ((1 << shift) - 1)):
        stored = stored >> shift  # left-aligned, as the standard allowed until 2009
    minimum, maximum = int(stored.min()), int(stored.max())
    if lowest <= minimum and maximum <= highest:
        return stored
    has_overlay = any(
        (dataset.get((group, 0x0102)) or _ZERO).value >= bits for group in range(0x6000, 0x6020, 2)
    )
    not_extended = lowest < 0 <= minimum and maximum < 1 << bits
    if has_overlay or not_extended:
        spare = 8 * stored.dtype.itemsize - bits
        return (stored << spare) >> spare
    outside = np.count_nonzero((stored < lowest) | (stored > highest)) / stored.size
    if outside > MAX_OUTSIDE:
        raise DicomRefusal(
            "bad_bits", f"{outside:.0%} of the pixels do not fit the {bits} bits of the header"
        )
    return np.clip(stored, lowest, highest)


def _is_padding(dataset: pydicom.Dataset, values: np.ndarray) -> np.ndarray:
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(values.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [int(first), int(first if limit is None else limit)]
    if values[0] < 0:  # signed pixels; a writer may give -2000 as the unsigned 63536
        allocated = dataset.get("BitsAllocated", 16)
        ends = [end - (1 << allocated) if end > values[-1] else end for end in ends]
    low, high = sorted(ends)
    return (values >= low) & (values <= high)


def _look_up(item: pydicom.Dataset, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Integers through a lookup table, and the highest entry that its bits allow (C.11.1.1).

    pydicom's own functions refuse tables of 10 to 15 bits per entry, and of 8 bits in bytes.
    """
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 1 << 16
    data = item.LUTData
    if isinstance(data, bytes):
        width = 1 if len(data) < 2 * count else 2
        order = "<" if item.original_encoding[1] else ">"
        entries = np.frombuffer(data, f"{order}u{width}")
    else:
        entries = np.atleast_1d(data)
    if not 8 <= bits <= 16 or len(entries) < count:
        raise DicomRefusal("bad_header", f"a lookup table of {len(entries)} entries, {bits} bits")
    return entries[np.clip(values - first, 0, count - 1)], float((1 << bits) - 1)


def _number(dataset: pydicom.Dataset, keyword: str, default: float | None = None) -> Any:
    """The first value of a numeric attribute, `default` where it is empty or absent."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return default
    if isinstance(value, pydicom.multival.MultiValue):
        if not value:
            return default
        value = value[0]
    number = float(value)
    if not math.isfinite(number):
        raise DicomRefusal("bad_header", f"{keyword} is {number}")
    return number


_ZERO = pydicom.DataElement(0x60000102, "US", 0)
