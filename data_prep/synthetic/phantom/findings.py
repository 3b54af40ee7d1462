"""What a chest radiograph can show: opacities, which have boxes, and findings that have none."""

import cv2
import numpy as np

from data_prep.synthetic.phantom.anatomy import Body
from data_prep.synthetic.phantom.canvas import (
    CANVAS,
    SCALE,
    SIDE,
    Points,
    blank,
    blur,
    clouds,
    disc,
    grid,
    mirror,
    smooth,
    step,
    stroke,
)

FINDINGS = ("large heart", "nodule", "tubes", "effusion", "atelectasis")
BOX_SIDE = (150, 400)  # pixels of the image
Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the image

_COARSE = 4  # opacities are placed on a canvas that many times smaller


def opacities(
    rng: np.random.Generator, count: int, lungs: list[np.ndarray], canvas_to_image: np.ndarray
) -> tuple[np.ndarray, list[Box]]:
    """The share of the air that `count` consolidations replace (canvas), and their boxes.

    The first is in either of the `lungs` (masks), the second as a rule in the other one.
    """
    lost = np.zeros((CANVAS, CANVAS), np.float32)
    boxes: list[Box] = []
    first = int(rng.integers(2))
    second = 1 - first if rng.random() < 0.75 else first
    for lung in [first, second, int(rng.integers(2))][:count]:
        cloud, box = _opacity(rng, lungs[lung], canvas_to_image, boxes)
        lost = 1 - (1 - lost) * (1 - cloud)
        boxes.append(box)
    return lost, boxes


def _opacity(
    rng: np.random.Generator, lung: np.ndarray, canvas_to_image: np.ndarray, taken: list[Box]
) -> tuple[np.ndarray, Box]:
    """One consolidation as the share of air it replaces (canvas), and its box in the image.

    Draws places and sizes until the box is BOX_SIDE and clear of most of the `taken` ones.
    """
    size = CANVAS // _COARSE
    inside = cv2.resize(lung, (size, size), interpolation=cv2.INTER_AREA) > 127
    rows, columns = np.nonzero(cv2.erode(inside.astype(np.uint8), np.ones((9, 9), np.uint8)))
    x, y = grid(size)
    crowd = 0.1  # how much two boxes may _overlap; grows, so that the search always ends
    while True:
        crowd += 0.02
        pick = rng.integers(len(rows))
        wide, high = rng.uniform(0.2, 0.36), rng.uniform(0.2, 0.48)
        reach = np.hypot((x - x[0, columns[pick]]) / wide, (y - y[rows[pick], 0]) / high)
        ragged = reach + 0.16 * clouds(rng, 14, size)
        cloud = np.clip((1.15 - ragged) / 0.45, 0, 1).astype(np.float32)
        box = _box_on_image((cloud > 0.3) & inside, canvas_to_image)
        if box and all(_overlap(box, other) < crowd for other in taken):
            share = rng.uniform(0.42, 0.8) * cv2.resize(cloud, (CANVAS, CANVAS))
            mottled = share * (1 + rng.uniform(0.05, 0.22) * (clouds(rng, 36) + clouds(rng, 90)))
            return np.clip(mottled, 0, 0.95), box


def _box_on_image(mask: np.ndarray, canvas_to_image: np.ndarray) -> Box | None:
    """The upright box round a coarse mask, in the image; None when it is not of BOX_SIDE."""
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return None
    points = (np.stack([columns, rows], 1) + 0.5) * _COARSE
    mapped = points @ canvas_to_image[:, :2].T + canvas_to_image[:, 2]
    low = np.floor(mapped.min(0)).clip(0).astype(int)
    high = np.ceil(mapped.max(0)).clip(max=SIDE).astype(int)
    width, height = (int(side) for side in high - low)
    if not all(BOX_SIDE[0] <= side <= BOX_SIDE[1] for side in (width, height)):
        return None
    return int(low[0]), int(low[1]), width, height


def _overlap(a: Box, b: Box) -> float:
    """Share of the smaller box that lies in the other."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / min(a[2] * a[3], b[2] * b[3])


def effusion(rng: np.random.Generator, body: Body) -> np.ndarray:
    """A little fluid that blunts one costophrenic angle, with its meniscus."""
    x, y = grid()
    side = rng.choice((-1, 1))
    level = body.dome + rng.uniform(0.02, 0.10)
    surface = level - 0.35 * np.clip(side * x - 0.7 * body.lung_width, 0, 1)
    outer = np.clip((side * x - 0.55 * body.lung_width) / 0.1, 0, 1)
    return 0.9 * outer * step((y - surface) / 0.012)


def nodules(rng: np.random.Generator, masks: list[np.ndarray]) -> np.ndarray:
    """One to three small round shadows, far smaller than any opacity."""
    layer = blank()
    rows, columns = np.nonzero(cv2.erode(masks[0] | masks[1], np.ones((45, 45), np.uint8)))
    for _ in range(rng.integers(1, 4)):
        pick = rng.integers(len(rows))
        radius = int(rng.uniform(0.02, 0.045) * SCALE)
        cv2.circle(layer, (int(columns[pick]), int(rows[pick])), radius, 255, -1, cv2.LINE_AA)
    return rng.uniform(0.14, 0.22) * blur(layer, 0.008)


def atelectasis(rng: np.random.Generator, body: Body) -> np.ndarray:
    """Plates: thin bright lines above the diaphragm."""
    layer = blank()
    side = rng.choice((-1, 1))
    for _ in range(rng.integers(1, 4)):
        start = np.array([rng.uniform(0.2, 0.3), body.dome - rng.uniform(0.06, 0.25)])
        end = start + np.array([rng.uniform(0.15, 0.28), rng.uniform(-0.08, 0.08)])
        stroke(layer, mirror(np.array([start, end]), side), 0.018)
    return 0.16 * blur(layer, 0.006)


def tubes(rng: np.random.Generator, body: Body) -> np.ndarray:
    """Some of: breathing tube, central line, stomach tube, electrodes and wires, pacemaker."""
    layer = blank()

    def wander(*points: tuple[float, float]) -> Points:
        return smooth(
            np.array(points) + rng.normal(0, 0.015, (len(points), 2)), closed=False, rounds=4
        )

    if rng.random() < 0.5:
        stroke(layer, wander((0, -1.15), (0, -0.8), (0.01, rng.uniform(-0.5, -0.38))), 0.016, 180)
    if rng.random() < 0.6:
        side = rng.choice((-1, 1))
        neck = wander((side * 0.55, -0.55), (side * 0.3, -0.66), (-0.06, -0.5), (-0.1, -0.2))
        stroke(layer, neck, 0.009, 230)
    if rng.random() < 0.4:
        stroke(layer, wander((0.02, -1.15), (0.03, 0), (0.05, 0.5), (0.25, 0.65)), 0.012, 170)
    if rng.random() < 0.6:
        for _ in range(rng.integers(2, 5)):
            end = (rng.uniform(-0.7, 0.7), rng.uniform(-0.5, 0.5))
            edge = (rng.choice((-1.1, 1.1)), rng.uniform(-0.3, 1.0))
            bend = (rng.uniform(-0.8, 0.8), rng.uniform(-0.2, 0.9))
            stroke(layer, wander(edge, bend, end), 0.006, 200)
            disc(layer, np.array(end), 0.024)
            disc(layer, np.array(end), 0.014, 90)
    if rng.random() < 0.2:
        x = rng.choice((-0.6, 0.45))
        stroke(layer, np.array([(x, -0.47), (x + 0.06, -0.43)]), 0.13)
        stroke(layer, wander((x, -0.45), (0.1, -0.5), (-0.08, -0.1), (0.1, body.dome)), 0.007, 220)
    return 0.28 * blur(layer, 0.003)
