"""An image of any shape onto the square that a model takes, in training and inference alike."""

import dataclasses

import cv2
import numpy as np

ASPECTS = ("letterbox", "squash")
INTERPOLATIONS = ("area", "nearest")


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the source image lies in the square: position = source * scale + offset, in pixels."""

    size: int
    scale_y: float
    scale_x: float
    top: int
    left: int

    def forward_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (k, 4), (ymin, xmin, ymax, xmax) in source pixels -> fractions of the square."""
        scale, offset = self._scale_and_offset()
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        return ((boxes * scale + offset) / self.size).astype(np.float32)

    def inverse_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (k, 4) as fractions of the square -> source pixels."""
        scale, offset = self._scale_and_offset()
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        return ((boxes * self.size - offset) / scale).astype(np.float32)

    def _scale_and_offset(self) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.array([self.scale_y, self.scale_x] * 2),
            np.array([self.top, self.left] * 2, np.float64),
        )


def fit_image(
    image: np.ndarray, size: int, aspect: str = "letterbox", interpolation: str = "area"
) -> tuple[np.ndarray, Placement]:
    """Fits an H x W uint8 or uint16 image into a uint8 square of `size` x `size` pixels.

    Args:
      image: full range: 0 is black, 255 or 65535 is white.
      size: side of the square, in pixels.
      aspect: "letterbox" keeps the aspect ratio and fills with black, "squash" does not keep it.
      interpolation: "area" averages when shrinking (antialiased) and is linear when enlarging;
        "nearest" takes the pixel under the centre, as PIL and Keras do.

    Returns:
      The square and the placement, which carries boxes to it and back.
    """
    if aspect not in ASPECTS or interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"aspect is one of {ASPECTS} and interpolation one of {INTERPOLATIONS}, "
            f"not {aspect!r} and {interpolation!r}"
        )
    rows, columns = image.shape
    if aspect == "squash":
        height = width = size
    else:
        height = max(1, round(size * rows / max(rows, columns)))
        width = max(1, round(size * columns / max(rows, columns)))
    if interpolation == "nearest":
        method = cv2.INTER_NEAREST_EXACT
    elif height < rows or width < columns:
        method = cv2.INTER_AREA
    else:
        method = cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), interpolation=method)
    if resized.dtype == np.uint16:  # 65535 / 255 = 257; in the depth of the source until here
        resized = ((resized.astype(np.uint32) + 128) // 257).astype(np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((size, size), np.uint8)
    square[top : top + height, left : left + width] = resized
    return square, Placement(size, height / rows, width / columns, top, left)


def shrink(square: np.ndarray, size: int) -> np.ndarray:
    """A uint8 (S, S) image averaged over areas to `size` pixels a side, rounded to uint8 again.

    Fractions of the square, such as boxes, stay as they are. An image of that size is returned
    itself.

    Raises:
      ValueError: the image is smaller than `size`.
    """
    if len(square) < size:
        raise ValueError(f"an image of {len(square)} px is not enlarged to {size} px")
    return square if len(square) == size else fit_image(square, size)[0]
