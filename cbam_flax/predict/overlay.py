"""A picture of one result: the image, the image under its map with a scale, the score as text."""

from collections.abc import Sequence

import cv2
import numpy as np

PANEL = 768  # the longer side of one panel, in pixels
TEXT = 18  # font size, in pixels
LINE = 24  # height of a line of text
LINES = 5
STRIP = LINE * LINES + 12  # height of the text area on top
BAR = 24  # width of the colour bar
SCALE = 96  # of the colour bar with its numbers, right of the panels
NOTICE = "RESEARCH ONLY - NOT FOR CLINICAL USE"
COLOURS = cv2.COLORMAP_INFERNO  # rises in lightness, so it works without colour vision and in print
OPACITY = 0.6  # of the map where it is largest; where it is smallest the plain image shows
BEHIND = 96  # grey behind the colour bar, as of lung and bone
MIN_WIDTH = 960  # of the whole picture, so that the text fits over a narrow image


def draw(
    panel: np.ndarray, values: np.ndarray, box: np.ndarray, lines: Sequence[str]
) -> np.ndarray:
    """Image on the left, image under the map on the right with the map's scale, text above.

    A map that is the same everywhere leaves the image as it is.

    Args:
        panel: uint8 (H, W), as `scale_to_panel` gives it.
        values: float32 (h, w), a map over the square that the model saw.
        box: float (4,), where the image lies in that square as fractions ymin, xmin, ymax, xmax.
        lines: at most four lines of text, of characters that the font of OpenCV has.

    Returns:
        uint8 (132 + H, at least 2 W + 96, 3), RGB.
    """
    image = cv2.cvtColor(panel, cv2.COLOR_GRAY2RGB)
    height, width = panel.shape
    picture = np.zeros((STRIP + height, max(2 * width + SCALE, MIN_WIDTH), 3), np.uint8)
    picture[STRIP:, : 2 * width] = np.hstack([image, image])
    if np.ptp(values):
        shown, low, high = scaled(values)
        picture[STRIP:, width : 2 * width] = blend(image, place(shown, box, panel.shape))
        _draw_scale(picture, 2 * width + 12, low, high)
    for number, line in enumerate([*lines, NOTICE], start=1):
        _write(picture, line, (8, number * LINE))
    return picture


def scaled(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """A map in [0, 1], and the values that became 0 and 1; one that is constant becomes 0."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) / max(high - low, 1e-30)).astype(np.float32), low, high


def _draw_scale(picture: np.ndarray, left: int, low: float, high: float) -> None:
    """A colour bar below the text with the map's smallest and largest value."""
    height = len(picture) - STRIP
    length = min(height - 2 * LINE, PANEL // 2)
    top = STRIP + (height - length) // 2
    ramp = np.repeat(np.linspace(1, 0, length, dtype=np.float32)[:, None], BAR, axis=1)
    bar = blend(np.full((length, BAR, 3), BEHIND), ramp)
    picture[top : top + length, left : left + BAR] = bar
    _write(picture, f"{high:.2g}", (left, top - 8))
    _write(picture, f"{low:.2g}", (left, top + length + TEXT + 2))


def scale_to_panel(image: np.ndarray) -> np.ndarray:
    """H x W uint8 or uint16 -> uint8 whose longer side is 768 pixels."""
    scale = PANEL / max(image.shape)
    height, width = (max(round(side * scale), 1) for side in image.shape)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    panel = cv2.resize(image, (width, height), interpolation=method)
    return (panel // 257).astype(np.uint8) if panel.dtype == np.uint16 else panel


def place(values: np.ndarray, box: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The part of a map (h, w) of the model's square that covers the image, at the image's size.

    Args:
        box: where the image lies in the square, as fractions ymin, xmin, ymax, xmax.
        shape: height and width of the image.

    Returns:
        float32 of that shape, within the range of the map.
    """
    # Pixel centres: image (y, x) -> fraction of the square -> cell of the map.
    cells = [
        (low + (np.arange(side) + 0.5) / side * (high - low)) * count - 0.5
        for low, high, side, count in zip(box[:2], box[2:], shape, values.shape, strict=True)
    ]
    y, x = np.meshgrid(*cells, indexing="ij")
    return cv2.remap(
        values.astype(np.float32),
        x.astype(np.float32),
        y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def blend(image: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """RGB image under a map in [0, 1]; a larger value is brighter and more opaque."""
    colours = cv2.applyColorMap((shown * 255).astype(np.uint8), COLOURS)
    colours = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
    # Squared, so that a map that is high nearly everywhere still shows where it is highest.
    opacity = OPACITY * shown[..., None] ** 2
    return np.clip(image * (1 - opacity) + colours * opacity, 0, 255).astype(np.uint8)


def encode_png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def _write(picture: np.ndarray, text: str, origin: tuple[int, int]) -> None:
    text = text.encode("utf-8", "replace").decode()  # a file name can be any bytes
    font, size = cv2.FontFace("sans"), TEXT
    while size > TEXT // 2 and _width(text, font, size) > picture.shape[1] - origin[0]:
        size -= 1
    cv2.putText(picture, text, origin, (255, 255, 255), font, size)


def _width(text: str, font: cv2.FontFace, size: int) -> int:
    """Pixels that the text takes."""
    return cv2.getTextSize((0, 0), text, (0, 0), font, size)[2]
