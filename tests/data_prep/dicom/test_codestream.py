import io

import numpy as np
import pydicom
import pytest
import simplejpeg
from pydicom.encaps import get_frame

from data_prep.dicom.codestream import Codestream, parse_codestream


@pytest.mark.parametrize("syntax", ["jpeg_lossless", "jpeg_ls", "jpeg_2000"])
def test_frame_header(make_dicom, syntax):
    stored = np.arange(48 * 36, dtype=np.uint16).reshape(48, 36)
    data = make_dicom(stored, bits=12, syntax=syntax)
    frame = get_frame(pydicom.dcmread(io.BytesIO(data)).PixelData, 0, number_of_frames=1)
    assert parse_codestream(frame) == Codestream(48, 36, 1, 12)


def test_jpeg_with_fill_bytes_and_colour():
    frame = simplejpeg.encode_jpeg(np.zeros((24, 40, 3), np.uint8), 90, "RGB")
    filled = frame[:2] + b"\xff\xff\xff" + frame[2:]
    assert parse_codestream(filled) == Codestream(24, 40, 3, 8)


@pytest.mark.parametrize(
    "frame",
    [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x00" * 9, b"\xff\x4f\xff\x51\0\0", b"RIFF" * 9],
)
def test_no_frame_header(frame):
    with pytest.raises(ValueError, match="JPEG"):
        parse_codestream(frame)
