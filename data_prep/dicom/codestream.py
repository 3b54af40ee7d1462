"""What a compressed frame says about itself, read before a decoder allocates anything for it."""

from typing import NamedTuple

# SOF0..SOF15 of JPEG but for DHT, JPG and DAC, which share the range; 0xF7 is JPEG-LS.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}


class Codestream(NamedTuple):
    """The size in pixels, the number of components and the bits per component."""

    rows: int
    columns: int
    components: int
    precision: int


def parse_codestream(frame: bytes) -> Codestream:
    """Reads the header of a JPEG (ISO 10918-1), JPEG-LS (14495-1) or JPEG 2000 (15444-1) frame.

    Raises:
      ValueError: there is no frame header.
    """
    if frame.startswith(b"\xff\xd8"):
        return _parse_jpeg(frame)
    # Searched for, because a JPEG 2000 codestream may lie inside a JP2 file.
    start = frame.find(b"\xff\x4f\xff\x51")
    siz = frame[start + 4 : start + 43]
    if start < 0 or len(siz) < 39:
        raise ValueError("no JPEG or JPEG 2000 frame header")
    right, bottom, left, top = (int.from_bytes(siz[i : i + 4], "big") for i in (4, 8, 12, 16))
    components = int.from_bytes(siz[36:38], "big")
    return Codestream(bottom - top, right - left, components, (siz[38] & 0x7F) + 1)


def repair_scan(frame: bytes) -> bytes:
    """A sequential JPEG frame whose scan covers the whole spectrum, as it must.

    Some writers give the scan's end (Se) as 0, where ISO 10918-1, table B.3 has 63. It has no other
    meaning in sequential JPEG, so it is set, as dcmtk does. Other frames are returned as they are.
    """
    position, is_sequential = 2, False
    while frame.startswith(b"\xff\xd8") and position + 4 < len(frame):
        marker = frame[position + 1]
        if frame[position] != 0xFF:
            break
        if marker == 0xFF:
            position += 1
            continue
        is_sequential |= marker in (0xC0, 0xC1)
        length = int.from_bytes(frame[position + 2 : position + 4], "big")
        if marker == 0xDA:
            end = position + 2 + length - 2  # Se; before it Ss, behind it Ah and Al
            if is_sequential and frame[end - 1 : end + 2] == bytes(3):
                return frame[:end] + bytes([63]) + frame[end + 1 :]
            break
        position += 2 + length
    return frame


def _parse_jpeg(frame: bytes) -> Codestream:
    position = 2
    while position + 9 < len(frame):
        if frame[position] != 0xFF:
            raise ValueError("damaged JPEG markers")
        marker = frame[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _START_OF_FRAME:
            header = frame[position + 4 : position + 10]
            rows, columns = (int.from_bytes(header[i : i + 2], "big") for i in (1, 3))
            return Codestream(rows, columns, header[5], header[0])
        else:
            position += 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
    raise ValueError("no JPEG frame header")
