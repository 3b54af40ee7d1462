"""Drawing on the phantom's canvas, a coarse square in body coordinates.

x runs to the image's right and y down; the image shows about [-1, 1] both ways and the canvas a
little more, so that the image can be tilted and shifted on it. Layers are uint8 0..255 while shapes
are drawn into them, and float32 once they are blurred into thicknesses.
"""

import cv2
import numpy as np

SIDE = 1024  # pixels of the finished image, as in the challenge
CANVAS = 512
HALF = 1.15  # body units from the canvas' centre to its edge
SCALE = CANVAS / (2 * HALF)  # canvas pixels per body unit

Points = np.ndarray  # float [n, 2], (x, y) in body units


def pixels(points: Points) -> np.ndarray:
    return (points + HALF) * SCALE


def blank() -> np.ndarray:
    return np.zeros((CANVAS, CANVAS), np.uint8)


def smooth(points: Points, closed: bool, rounds: int = 3) -> Points:
    """Rounds the corners of a polygon or polyline by cutting them (Chaikin 1974)."""
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        cut = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1)
        cut = cut.reshape(-1, 2)
        points = cut if closed else np.concatenate([points[:1], cut[:-2], points[-1:]])
    return points


def fill(points: Points) -> np.ndarray:
    """A filled polygon as a 0/255 mask, corners rounded."""
    outline = np.round(pixels(smooth(points, closed=True)) * 16).astype(np.int32)
    return cv2.fillPoly(blank(), [outline], 255, cv2.LINE_8, shift=4)


def stroke(layer: np.ndarray, points: Points, width: float, value: int = 255) -> None:
    """Adds a line [n, 2], or several [k, n, 2], `width` body units wide, antialiased, in place."""
    lines = np.round(pixels(points) * 16).astype(np.int32).reshape(-1, *points.shape[-2:])
    thickness = max(1, round(width * SCALE))
    cv2.polylines(layer, list(lines), False, value, thickness, cv2.LINE_AA, shift=4)


def disc(layer: np.ndarray, center: Points, radius: float, value: int = 255) -> None:
    """Adds a filled circle, in place."""
    x, y = np.round(pixels(center)).astype(int).tolist()
    cv2.circle(layer, (x, y), round(radius * SCALE), value, cv2.FILLED, cv2.LINE_AA)


def blur(layer: np.ndarray, radius: float) -> np.ndarray:
    """A 0..255 layer as float32 in 0..1, softened by `radius` body units."""
    return cv2.GaussianBlur(layer.astype(np.float32) / 255, (0, 0), radius * SCALE)


def pillow(mask: np.ndarray, radius: float) -> np.ndarray:
    """Thickness 0..1 of a body with this outline whose edge is rounded with `radius`."""
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3) / (radius * SCALE)
    rest = 1 - np.minimum(depth, 1)
    return np.sqrt(1 - rest * rest)


def clouds(rng: np.random.Generator, cells: int, size: int = CANVAS) -> np.ndarray:
    """Smooth noise of about unit variance with `cells` bumps across the canvas."""
    noise = rng.standard_normal((cells, cells), np.float32)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def mirror(points: Points, side: int) -> Points:
    return points * np.array([side, 1.0])


def grid(size: int = CANVAS) -> tuple[np.ndarray, np.ndarray]:
    """x as a row and y as a column, in body units, for broadcasting."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) * HALF
    return axis[None, :], axis[:, None]


def step(t: np.ndarray) -> np.ndarray:
    """The logistic function, written so that it cannot overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * t)
