"""A picture of one result: the image, the image under its attention map, the score as text."""

from collections.abc import Sequence

import cv2
import numpy as np

PANEL = 768  # the longer side of one panel, in pixels
STRIP = 120  # height of the text area on top
TEXT = 18  # font size, in pixels
NOTICE = "RESEARCH ONLY - NOT FOR CLINICAL USE"
COLOURS = cv2.COLORMAP_INFERNO  # rises in lightness, so it works without colour vision and in print
OPACITY = 0.5  # of the map where it is largest; where it is smallest the plain image shows
MIN_WIDTH = 960  # of the whole picture, so that the text fits over a narrow image


def draw(
    panel: np.ndarray, attention: np.ndarray, box: np.ndarray, lines: Sequence[str]
) -> np.ndarray:
    """Image on the left, image under the map on the right, text above.

    Args:
        panel: uint8 (H, W), as `scale_to_panel` gives it.
        attention: float32 (h, w) over the square that the model saw; 1 x 1 when there is no map.
        box: float (4,), where the image lies in that square as fractions ymin, xmin, ymax, xmax.
        lines: at most three lines of text, of characters that the font of OpenCV has.

    Returns:
        uint8 (120 + H, at least 2 W, 3), RGB.
    """
    image = cv2.cvtColor(panel, cv2.COLOR_GRAY2RGB)
    height, width = panel.shape
    picture = np.zeros((STRIP + height, max(2 * width, MIN_WIDTH), 3), np.uint8)
    picture[STRIP:, : 2 * width] = np.hstack([image, image])
    legend = "this model has no attention map"
    if attention.size > 1:
        low, high = float(attention.min()), float(attention.max())
        shown = (attention - low) / max(high - low, 1e-6)
        picture[STRIP:, width : 2 * width] = blend(image, place(shown, box, panel.shape))
        legend = f"attention {low:.2f} (clear) to {high:.2f} (bright)"
    for number, line in enumerate([*lines, f"{NOTICE}   {legend}"]):
        _write(picture, line, (8, (number + 1) * STRIP // 5 + 8))
    return picture


def scale_to_panel(image: np.ndarray) -> np.ndarray:
    """H x W uint8 or uint16 -> uint8 whose longer side is 768 pixels."""
    scale = PANEL / max(image.shape)
    height, width = (max(round(side * scale), 1) for side in image.shape)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    panel = cv2.resize(image, (width, height), interpolation=method)
    return (panel // 257).astype(np.uint8) if panel.dtype == np.uint16 else panel


def place(attention: np.ndarray, box: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
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
        for low, high, side, count in zip(box[:2], box[2:], shape, attention.shape, strict=True)
    ]
    y, x = np.meshgrid(*cells, indexing="ij")
    return cv2.remap(
        attention.astype(np.float32),
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
    cv2.putText(picture, text, origin, (255, 255, 255), cv2.FontFace("sans"), TEXT)
